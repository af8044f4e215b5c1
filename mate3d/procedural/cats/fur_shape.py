"""Shape of long fur on procedural cats: cheek tufts, a mane, locks in the outline."""

import math

import torch
from torch import Tensor

from mate3d.procedural.portrait_field import Coordinates
from mate3d.procedural.primitives import (
    RoundCone,
    ellipsoid_distance,
    offset_from,
    smooth_union,
    stack_points,
)

# Cheek tufts for ruff = 1: start and end relative to the end of the cheek, first radius.
_TUFTS = (
    ((-0.040, 0.012, 0.014), (0.066, 0.010, -0.006), 0.050),
    ((-0.046, -0.010, 0.020), (0.056, -0.046, -0.002), 0.052),
    ((-0.066, -0.026, 0.030), (0.022, -0.086, 0.008), 0.050),
)
_TUFT_TIP = 0.006
# Locks are grooves that run outwards from the face: their number around it, and their depth.
_NUM_LOCKS = 22
_LOCK_DEPTH = 0.0032
_MANE_LOCKS = 15
_MANE_DEPTH = 0.007


class FurShape:
    """Adds long fur to the skin distance of a batch, at (|x|, y, z)."""

    def __init__(
        self,
        column: dict[str, Tensor],  # [B, 1] each
        varied: frozenset[str],
        cheek_end: Tensor,  # [B, 3]
    ) -> None:
        self._ruff = column["ruff"] if "ruff" in varied else None
        self._mane = column["mane"] if "mane" in varied else None
        self._length = column["fur_length"] if "fur_length" in varied else None
        self._cheek_end = cheek_end
        # Whether any cat of the batch has long fur.
        self.is_long = not varied.isdisjoint(("ruff", "mane", "fur_length"))

    def apply(
        self,
        skin: Tensor,  # [B, N]
        folded: Coordinates,
    ) -> Tensor:  # [B, N]
        """Return the distance to skin and fur; unchanged for cats without long fur."""
        result = skin
        if self._mane is not None:
            joined = smooth_union(result, self._mane_distance(folded), 0.05)
            result = torch.where(self._mane > 0, joined, result)
        if self._ruff is not None:
            result = torch.where(self._ruff > 0, self._add_ruff(result, folded), result)
        if self._length is not None:
            result = torch.where(self._length > 0, self._add_locks(result, folded), result)
        return result

    def _add_ruff(self, skin: Tensor, folded: Coordinates) -> Tensor:
        tip_radius = torch.full_like(self._ruff, _TUFT_TIP)
        for start, end, radius in _TUFTS:
            first = stack_points(*start, like=self._ruff)
            axis = stack_points(*end, like=self._ruff) - first
            tuft = RoundCone(
                self._cheek_end + first,
                axis * (0.55 + 0.45 * self._ruff),
                radius * (0.6 + 0.4 * self._ruff),
                tip_radius,
            )
            skin = smooth_union(skin, tuft.distance(folded), 0.022)
        return skin

    def _mane_distance(self, folded: Coordinates) -> Tensor:
        mane = self._mane
        center = stack_points(0.0, -0.185, -0.035, like=mane)
        offset = offset_from(folded, center)
        radii = (0.135 + 0.060 * mane, 0.125 + 0.012 * mane, 0.120 + 0.035 * mane)
        x, y, z = offset
        angle = torch.atan2(x, z)
        lock = (angle * _MANE_LOCKS + 22 * y + 1.3 * (angle * 4).sin()).sin()
        # The angle is undefined on the axis, so locks end before it.
        off_axis = ((x.square() + z.square()).sqrt_() * 8 - 0.4).clamp_(0, 1)
        distance = ellipsoid_distance(offset, radii) - _MANE_DEPTH * mane * lock * off_axis
        # Compensates for the slope of the locks, so that sphere tracing never oversteps.
        return distance / 1.15

    def _add_locks(self, skin: Tensor, folded: Coordinates) -> Tensor:
        x, y, z = folded
        height = y + 0.03
        radius = (x.square() + height.square()).sqrt_()
        angle = torch.atan2(x, height)
        wave = angle * _NUM_LOCKS + 1.2 * (z * 30).sin() + 0.8 * (angle * 7 + 40 * radius).sin()
        away = ((radius - 0.10) / 0.07).clamp_(0, 1)
        lock = (1 + wave.sin()) * away
        grown = skin - self._length * (_LOCK_DEPTH * lock + 0.004 * away)
        return grown / math.sqrt(1 + 0.5**2)
