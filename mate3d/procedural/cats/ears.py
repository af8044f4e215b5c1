"""Ears of procedural cats: rounded, cupped plates that may fold over and end in tufts."""

import torch
from torch import Tensor

from mate3d.procedural.portrait_field import Coordinates
from mate3d.procedural.primitives import (
    along_axis,
    extrude_profile,
    offset_from,
    round_cone_distance,
    round_cone_profile,
    smooth_union,
    stack_points,
)

_HALF_THICKNESS = 0.021
_EDGE_RADIUS = 0.016
_CUP = 2.2
_CUP_REACH = 0.1
_YAW = 0.42
# A folded ear bends at this fraction of its length, by up to this angle in radians.
_FOLD_PLACE = 0.42
_FOLD_ANGLE = 2.2
# Overlap of the two sides of the fold, so that no gap opens.
_FOLD_OVERLAP = 0.010
_TUFT_LENGTH = 0.05


class Ears:
    """Both ears of a batch of cats, evaluated at (|x|, y, z)."""

    def __init__(
        self,
        column: dict[str, Tensor],  # [B, 1] each
        varied: frozenset[str],
    ) -> None:
        size, spread, width = column["ear_size"], column["ear_spread"], column["head_width"]
        one = torch.ones_like(size)
        self._base = stack_points(
            (0.082 + 0.060 * spread) * width * column["ear_spacing"],
            0.098 - 0.04 * spread,
            -0.03,
            like=one,
        )
        yaw = torch.tensor(_YAW)
        outward = stack_points(yaw.cos(), 0.0, -yaw.sin(), like=one)
        forward = stack_points(yaw.sin(), 0.0, yaw.cos(), like=one)
        upward = stack_points(0.0, 1.0, 0.0, like=one)
        self._up = spread.cos() * upward + spread.sin() * outward
        across = spread.cos() * outward - spread.sin() * upward
        turn = column["ear_turn"]
        self._lateral = turn.cos() * across - turn.sin() * forward
        self._front = turn.cos() * forward + turn.sin() * across
        roundness = column["ear_roundness"]
        base_radius = 0.076 * size * column["ear_width"]
        tip_radius = (0.010 + 0.038 * roundness) * size
        # A rounder tip starts lower, so that roundness changes the outline and not the height.
        self._length = 0.030 + 0.112 * size - tip_radius
        self._radii = (base_radius, tip_radius)
        self._fold = column["ear_fold"] if "ear_fold" in varied else None
        self._tufts = column["ear_tufts"] if "ear_tufts" in varied else None

    def reach(self) -> Tensor:  # [B, 1]
        """Return the maximum distance of the ears from the origin."""
        tip = (self._base + self._length * self._up).norm(dim=-1, keepdim=True) + self._radii[1]
        if self._tufts is not None:
            tip = tip + _TUFT_LENGTH * self._tufts
        return tip

    def coordinates(self, folded: Coordinates) -> tuple[Tensor, Tensor]:  # each [B, N]
        """Return the signed distance to the ear's outline and the height above its mid-surface.

        For a folded ear they refer to the nearer side of the fold.
        """
        lateral, up, front = self._axes(folded)
        profile, height = self._plate(lateral, up, front)
        if self._fold is None:
            return profile, height
        lower, upper = self._sides(lateral, up, front)
        is_upper = (self._fold > 0) & (_thicken(*upper) < _thicken(*lower))
        is_lower = (self._fold > 0) & ~is_upper
        # The fold line is not part of the outline: each side uses that of the whole ear.
        bent = self._plate(lateral, *self._bend(up, front))
        return (
            torch.where(is_upper, bent[0], torch.where(is_lower, lower[0], profile)),
            torch.where(is_upper, bent[1], height),
        )

    def distance(self, folded: Coordinates) -> Tensor:  # [B, N]
        """Return the distance to the ears."""
        lateral, up, front = self._axes(folded)
        distance = _thicken(*self._plate(lateral, up, front))
        if self._fold is not None:
            lower, upper = self._sides(lateral, up, front)
            both = smooth_union(_thicken(*lower), _thicken(*upper), 0.012)
            distance = torch.where(self._fold > 0, both, distance)
            up, front = (
                torch.where(self._fold > 0, bent, straight)
                for bent, straight in zip(self._bend(up, front), (up, front), strict=True)
            )
        if self._tufts is not None:
            tuft = self._tuft_distance(lateral, up, front)
            distance = torch.where(self._tufts > 0, torch.minimum(distance, tuft), distance)
        return distance

    def _axes(self, folded: Coordinates) -> Coordinates:
        offset = offset_from(folded, self._base)
        return tuple(along_axis(offset, axis) for axis in (self._lateral, self._up, self._front))

    def _plate(self, lateral: Tensor, up: Tensor, front: Tensor) -> tuple[Tensor, Tensor]:
        # The cup ends beside the ear: bending beyond it would distort distances.
        bend = lateral.square().clamp_(max=_CUP_REACH**2).mul_(_CUP)
        profile = round_cone_profile(lateral.abs(), up, self._length, *self._radii)
        return profile, front - bend

    def _bend(self, up: Tensor, front: Tensor) -> tuple[Tensor, Tensor]:
        """Return `up` and `front` of the straight ear at points of the bent part."""
        place, angle = _FOLD_PLACE * self._length, _FOLD_ANGLE * self._fold
        beyond = up - place
        return (
            angle.cos() * beyond + angle.sin() * front + place,
            angle.cos() * front - angle.sin() * beyond,
        )

    def _sides(
        self, lateral: Tensor, up: Tensor, front: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return outline and height of the parts below and above the fold."""
        place = _FOLD_PLACE * self._length
        profile, height = self._plate(lateral, up, front)
        bent_up, bent_front = self._bend(up, front)
        bent_profile, bent_height = self._plate(lateral, bent_up, bent_front)
        return (
            (torch.maximum(profile, up - place - _FOLD_OVERLAP), height),
            (torch.maximum(bent_profile, place - _FOLD_OVERLAP - bent_up), bent_height),
        )

    def _tuft_distance(self, lateral: Tensor, up: Tensor, front: Tensor) -> Tensor:
        length = _TUFT_LENGTH * self._tufts.clamp(min=0.02) + 0.85 * self._radii[1]
        first = (0.003 + 0.4 * length).clamp(max=0.014)
        axis = torch.cat([0.12 * length, length, torch.zeros_like(length)], dim=-1)
        return round_cone_distance(
            (lateral, up - self._length, front), axis, first, torch.full_like(length, 0.0025)
        )


def _thicken(profile: Tensor, height: Tensor) -> Tensor:
    return extrude_profile(profile, height, _HALF_THICKNESS, _EDGE_RADIUS)
