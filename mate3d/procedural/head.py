"""Shape of a procedural cat's head: one signed distance a semantic class.

Everything is mirror-symmetric, so the solids are evaluated at (|x|, y, z): `folded` points.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mate3d.procedural.cat import CatParameters
from mate3d.procedural.portrait_field import Coordinates
from mate3d.procedural.primitives import (
    ellipsoid_distance,
    extrude_profile,
    round_cone_distance,
    round_cone_profile,
    smooth_union,
)

_EAR_HALF_THICKNESS = 0.021
_EAR_EDGE_RADIUS = 0.016
_EAR_CUP = 2.2
_EAR_CUP_REACH = 0.1
_MOUTH_RADIUS = 0.010


def _offset(point: Coordinates, center: Tensor) -> Coordinates:  # center [B, 3]
    return tuple(axis - center[:, i : i + 1] for i, axis in enumerate(point))


def _points(*coordinates: Tensor | float, like: Tensor) -> Tensor:  # like [B, 1] -> [B, 3]
    return torch.cat([like.new_zeros(like.shape) + value for value in coordinates], dim=-1)


class HeadShape:
    """Solids of a batch of heads, placed once and then evaluated at many points."""

    def __init__(self, parameters: CatParameters) -> None:
        column = {
            name: value[:, None] for name, value in vars(parameters).items() if value.ndim == 1
        }
        self._one = torch.ones_like(column["ear_size"])
        self._place_skin(column)
        self._place_ears(column)
        self._place_features(column)

    def _place_skin(self, column: dict[str, Tensor]) -> None:
        one, width, cheek = self._one, column["head_width"], column["cheek_width"]
        muzzle, chin = column["muzzle_size"], column["chin"]
        self._cranium_center = _points(0.0, -0.015, -0.03, like=one)
        self._cranium_radii = (0.190 * width, 0.168 * one, 0.170 * one)
        self._cheek_start = _points(0.085 * width, -0.075, 0.045, like=one)
        cheek_end = _points(0.085 * width + 0.088 * cheek, -0.095, -0.01, like=one)
        self._cheek_axis = cheek_end - self._cheek_start
        self._cheek_radii = (0.082 * cheek, 0.042 * one)
        self._bridge_start = _points(0.0, 0.02, 0.10, like=one)
        bridge_end = _points(0.0, -0.068, 0.130 + 0.025 * muzzle, like=one)
        self._bridge_axis = bridge_end - self._bridge_start
        self._bridge_radii = (0.050 * one, 0.033 * muzzle)
        self._pad_center = _points(0.036 * muzzle, -0.105, 0.100 + 0.035 * muzzle, like=one)
        self._pad_radii = (0.052 * muzzle, 0.044 * muzzle, 0.050 * muzzle)
        self._chin_center = _points(0.0, -0.148 - 0.012 * chin, 0.095 + 0.025 * chin, like=one)
        self._chin_radius = 0.036 + 0.012 * chin
        self._neck_start = _points(0.0, -0.12, -0.065, like=one)
        self._neck_axis = _points(0.0, -0.072, 0.0, like=one)
        self._neck_radii = (0.135 * one, 0.133 + 0.012 * cheek)

    def _place_ears(self, column: dict[str, Tensor]) -> None:
        one, size = self._one, column["ear_size"]
        spread, width = column["ear_spread"], column["head_width"]
        self._ear_base = _points(
            (0.082 + 0.060 * spread) * width, 0.098 - 0.04 * spread, -0.03, like=one
        )
        yaw = 0.42
        lateral = _points(torch.tensor(yaw).cos(), 0.0, -torch.tensor(yaw).sin(), like=one)
        front = _points(torch.tensor(yaw).sin(), 0.0, torch.tensor(yaw).cos(), like=one)
        up = _points(0.0, 1.0, 0.0, like=one)
        self._ear_up = spread.cos() * up + spread.sin() * lateral
        self._ear_lateral = spread.cos() * lateral - spread.sin() * up
        self._ear_front = front
        roundness = column["ear_roundness"]
        base_radius, tip_radius = 0.076 * size, (0.010 + 0.038 * roundness) * size
        # A rounder tip starts lower, so that roundness changes the outline and not the height.
        self._ear_length = 0.030 + 0.112 * size - tip_radius
        self._ear_radii = (base_radius, tip_radius)

    def _place_features(self, column: dict[str, Tensor]) -> None:
        one, muzzle = self._one, column["muzzle_size"]
        smile = column["mouth_width"] * muzzle
        eye, nose_bottom, nose_side, *lip = self._on_skin(
            [
                (0.079 * column["eye_spacing"], 0.002),
                (0.0, -0.078),
                (0.017, -0.061),
                (0.0, -0.088),
                (0.0, -0.112),
                (0.023 * smile, -0.124),
                (0.048 * smile, -0.110),
            ]
        )
        self.eye_radius = 0.054 * column["eye_size"]
        # Eyes look more forward than the skin around them.
        outward = normalize(eye - self._cranium_center, dim=-1)
        self.eye_axis = normalize(outward + _points(0.0, 0.0, 0.9, like=one), dim=-1)
        self.eye_right = normalize(
            torch.linalg.cross(_points(0.0, 1.0, 0.0, like=one), self.eye_axis), dim=-1
        )
        self.eye_up = torch.linalg.cross(self.eye_axis, self.eye_right)
        # The ball is sunk by a share of its radius, so that a wide cap of it shows.
        self.eye_center = eye - 0.50 * self.eye_radius * self.eye_axis
        # Lips are sunk a little: a line in the fur rather than a tube on it.
        self._lip = [corner - _points(0.0, 0.0, 0.003, like=one) for corner in lip]
        self._nose_radius = 0.0135 * (0.6 + 0.4 * muzzle)
        self._nose_start = nose_bottom - _points(0.0, 0.0, 0.002, like=one)
        self._nose_axis = nose_side - nose_bottom

    def _on_skin(self, places: list[tuple[Tensor | float, float]]) -> list[Tensor]:  # [B, 3] each
        """Return the points of the skin that the frontal view sees at the given (x, y)."""
        x = torch.cat([self._one * x for x, _ in places], dim=-1)
        y = torch.cat([self._one * y for _, y in places], dim=-1)
        z = torch.full_like(x, 0.3)
        for _ in range(24):
            z = z - self.skin_distance((x, y, z))
        return list(torch.stack([x, y, z], dim=-1).unbind(1))

    def skin_distance(self, folded: Coordinates) -> Tensor:  # [B, N]
        """Return the distance to cranium, cheeks, muzzle, chin and neck, smoothly joined."""
        skin = ellipsoid_distance(_offset(folded, self._cranium_center), self._cranium_radii)
        neck = round_cone_distance(
            _offset(folded, self._neck_start), self._neck_axis, *self._neck_radii
        )
        cheek = round_cone_distance(
            _offset(folded, self._cheek_start), self._cheek_axis, *self._cheek_radii
        )
        bridge = round_cone_distance(
            _offset(folded, self._bridge_start), self._bridge_axis, *self._bridge_radii
        )
        pad = ellipsoid_distance(_offset(folded, self._pad_center), self._pad_radii)
        x, y, z = _offset(folded, self._chin_center)
        chin = (x.square_().add_(y.square_()).add_(z.square_())).sqrt_() - self._chin_radius
        skin = smooth_union(skin, neck, 0.09)
        skin = smooth_union(skin, cheek, 0.05)
        skin = smooth_union(skin, bridge, 0.05)
        return smooth_union(skin, smooth_union(pad, chin, 0.02), 0.025)

    def ear_coordinates(self, folded: Coordinates) -> tuple[Tensor, Tensor]:  # each [B, N]
        """Return the signed distance to the ear's outline and the height over its mid-surface."""
        offset = _offset(folded, self._ear_base)

        def dot(axis: Tensor) -> Tensor:
            total = offset[0] * axis[:, :1]
            return total.add_(offset[1] * axis[:, 1:2]).add_(offset[2] * axis[:, 2:])

        lateral = dot(self._ear_lateral)
        # The cup ends beside the ear: a bend that grew further would stretch distances.
        bend = lateral.square().clamp_(max=_EAR_CUP_REACH**2).mul_(_EAR_CUP)
        height = dot(self._ear_front).sub_(bend)
        profile = round_cone_profile(
            lateral.abs(), dot(self._ear_up), self._ear_length, *self._ear_radii
        )
        return profile, height

    def _ear_distance(self, folded: Coordinates) -> Tensor:
        profile, height = self.ear_coordinates(folded)
        return extrude_profile(profile, height, _EAR_HALF_THICKNESS, _EAR_EDGE_RADIUS)

    def _eye_distance(self, folded: Coordinates) -> Tensor:
        x, y, z = _offset(folded, self.eye_center)
        return (x.square_().add_(y.square_()).add_(z.square_())).sqrt_() - self.eye_radius

    def _mouth_distance(self, folded: Coordinates) -> Tensor:
        radius = _MOUTH_RADIUS * self._one
        parts = [
            round_cone_distance(_offset(folded, start), end - start, radius, radius)
            for start, end in zip(self._lip[:-1], self._lip[1:], strict=True)
        ]
        return torch.minimum(torch.minimum(parts[0], parts[1]), parts[2])

    def _nose_distance(self, folded: Coordinates) -> Tensor:
        radius = self._nose_radius
        return round_cone_distance(
            _offset(folded, self._nose_start), self._nose_axis, radius, radius
        )

    def part_distances(self, folded: Coordinates) -> list[Tensor]:  # 5 of [B, N]
        """Return the distances to skin, ears, eyes, mouth and nose."""
        return [
            self.skin_distance(folded),
            self._ear_distance(folded),
            self._eye_distance(folded),
            self._mouth_distance(folded),
            self._nose_distance(folded),
        ]

    def distance(self, folded: Coordinates) -> Tensor:  # [B, N]
        """Return the distance to the whole head."""
        parts = self.part_distances(folded)
        nearest = parts[0]
        for part in parts[1:]:
            nearest = torch.minimum(nearest, part)
        return nearest
