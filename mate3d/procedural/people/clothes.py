"""Clothes, glasses and hats of procedural people."""

import math

import torch
from torch import Tensor

from mate3d.procedural.people.head import PersonHead
from mate3d.procedural.people.person import PersonParameters
from mate3d.procedural.portrait_field import Coordinates
from mate3d.procedural.primitives import (
    RoundCone,
    RoundCones,
    chain,
    offset_from,
    smooth_intersection,
    smooth_union,
    sphere_distance,
    stack_points,
)

_WIRE_RADIUS = 0.0043
_HAT_TILT = 0.13
_HAIR_UNDER_HAT = 0.022
_HAT_CENTER = (0.146, -0.040)
_COLLAR_TILT = 0.30
_COLLAR_CENTER = (-0.292, -0.066)


class PersonClothes:
    """Clothes, glasses and hats of a batch of people; symmetric, so evaluated at folded points."""

    def __init__(self, parameters: PersonParameters, head: PersonHead) -> None:
        column = parameters.columns()
        self._one = torch.ones_like(column["hat"])
        self.has_glasses = bool((column["glasses"] > 0).any())
        self.has_hat = bool((column["hat"] > 0).any())
        self._place_cloth(column)
        self._place_glasses(column, head)
        self._place_hat(column)

    def _place_cloth(self, column: dict[str, Tensor]) -> None:
        one, neck = self._one, column["neck_width"]
        shoulder = stack_points(0.030, -0.385, -0.075, like=one)
        shoulder_axis = stack_points(0.195, -0.050, -0.010, like=one)
        chest = stack_points(0.070, -0.460, -0.060, like=one)
        chest_axis = stack_points(0.0, -0.060, 0.0, like=one)
        self._body_cones = RoundCones(
            {
                "shoulder": [RoundCone(shoulder, shoulder_axis, 0.098 * one, 0.080 * one)],
                "chest": [RoundCone(chest, chest_axis, 0.120 * one, 0.120 * one)],
            }
        )
        self._collar_radius = 0.081 * neck
        self._collar_half_height = 0.002 + 0.030 * column["collar"]

    def _place_glasses(self, column: dict[str, Tensor], head: PersonHead) -> None:
        one, size = self._one, column["glasses_size"]
        self._frame_missing = 0.3 * (1 - column["glasses"])
        self._frame_center = torch.cat([head.eye_center[:, :1], 0.014 * one, 0.122 * one], dim=-1)
        self._frame_half_sizes = (0.054 * size, 0.047 * size)
        self._frame_corner = 0.041 * size
        inner = head.eye_center[:, :1] - self._frame_half_sizes[0]
        bridge = (
            stack_points(0.0, 0.031, 0.127, like=one),
            stack_points(inner, 0.024, 0.122, like=one),
        )
        outer = head.eye_center[:, :1] + self._frame_half_sizes[0]
        temple = (
            stack_points(outer, 0.026, 0.120, like=one),
            stack_points(0.154 * column["face_width"], 0.016, -0.010, like=one),
        )
        wire = (_WIRE_RADIUS * one, _WIRE_RADIUS * one)
        self._frame_cones = RoundCones(
            {"bridge": chain(bridge, wire), "temple": chain(temple, wire)}
        )

    def _place_hat(self, column: dict[str, Tensor]) -> None:
        brim = column["hat_brim"]
        self._hat_missing = 0.4 * (1 - column["hat"])
        self._crown_thickness = 0.030 + 0.010 * brim
        self._cuff_thickness = 0.040 + 0.004 * brim
        self._cuff_half_height = 0.030 - 0.008 * brim
        self._brim_radius = 0.13 + 0.115 * brim
        self._bobble_radius = 0.040 * (1 - brim)
        self._bobble_center = stack_points(0.0, 0.294, -0.066, like=self._one)

    def cloth_distance(self, folded: Coordinates) -> Tensor:  # [B, N]
        """Return the distance to shoulders, chest and collar."""
        solids = self._body_cones.distances(folded)
        body = smooth_union(solids["shoulder"], solids["chest"], 0.05)
        across, height = _tilted(folded, _COLLAR_CENTER, _COLLAR_TILT)
        ring = (folded[0].square() + across.square()).clamp_(min=1e-12).sqrt_()
        ring = (ring - self._collar_radius).square_()
        rise = height.abs().sub_(self._collar_half_height).clamp_(min=0).square_()
        collar = (ring + rise).clamp_(min=1e-12).sqrt_() - 0.0125
        return smooth_union(body, collar, 0.015)

    def glasses_distance(self, folded: Coordinates) -> Tensor:  # [B, N]
        """Return the distance to the frame; there are no lenses."""
        x, y, z = offset_from(folded, self._frame_center)
        corner, (half_width, half_height) = self._frame_corner, self._frame_half_sizes
        over_x = x.abs() - (half_width - corner)
        over_y = y.abs() - (half_height - corner)
        outside = over_x.clamp(min=0).square_().add_(over_y.clamp(min=0).square_())
        outline = outside.clamp_(min=1e-12).sqrt_() - corner
        outline = outline + torch.maximum(over_x, over_y).clamp_(max=0)
        rim = (outline.square() + z.square()).clamp_(min=1e-12).sqrt_() - _WIRE_RADIUS
        solids = self._frame_cones.distances(folded)
        frame = torch.minimum(smooth_union(rim, solids["bridge"], 0.006), solids["temple"])
        return frame + self._frame_missing

    def height_in_hat(self, folded: Coordinates) -> Tensor:  # [B, N]
        """Return the height above the plane where a hat cuts off hair; negative without a hat."""
        _, height = _tilted(folded, _HAT_CENTER, _HAT_TILT)
        return height + _HAIR_UNDER_HAT - self._hat_missing

    def hat_distance(
        self,
        folded: Coordinates,
        cranium: Tensor,  # [B, N] distance to the skull
    ) -> Tensor:  # [B, N]
        """Return the distance to the hat: crown, cuff, bobble or brim."""
        across, height = _tilted(folded, _HAT_CENTER, _HAT_TILT)
        crown = smooth_intersection(cranium - self._crown_thickness, -height, 0.02)
        edge = smooth_intersection(
            cranium - self._cuff_thickness, height.abs() - self._cuff_half_height, 0.022
        )
        radius = (folded[0].square() + across.square()).clamp_(min=1e-12).sqrt_()
        over = (radius - self._brim_radius).clamp_(min=0).square_()
        brim = (over + (height + 0.018).square()).clamp_(min=1e-12).sqrt_() - 0.007
        bobble = sphere_distance(offset_from(folded, self._bobble_center), self._bobble_radius)
        hat = smooth_union(torch.minimum(crown, edge), brim, 0.012)
        return torch.minimum(hat, bobble) + self._hat_missing


def _tilted(
    folded: Coordinates, center: tuple[float, float], tilt: float
) -> tuple[Tensor, Tensor]:  # each [B, N]
    """Return forward and upward coordinates in a frame tilted down at the front."""
    y, z = folded[1] - center[0], folded[2] - center[1]
    cosine, sine = math.cos(tilt), math.sin(tilt)
    return z * cosine - y * sine, y * cosine + z * sine
