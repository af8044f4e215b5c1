"""Head shape of procedural cats: one signed distance per semantic class.

Everything is mirror-symmetric, so solids are evaluated at (|x|, y, z), the `folded` points.
"""

from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mate3d.procedural.cats.cat import CatParameters
from mate3d.procedural.cats.ears import Ears
from mate3d.procedural.cats.fur_shape import FurShape
from mate3d.procedural.portrait_field import Coordinates
from mate3d.procedural.primitives import (
    RoundCone,
    along_axis,
    chain,
    ellipsoid_distance,
    offset_from,
    smooth_intersection,
    smooth_union,
    sphere_distance,
    stack_points,
)

_MOUTH_RADIUS = 0.010
_LID_THICKNESS = 0.009
_TONGUE_RADIUS = 0.013
# Every head fits in a ball of this radius around the origin, unless its ears are huge.
_HEAD_REACH = 0.36
_LONG_FUR = 0.02


class HeadShape:
    """Solids of a batch of heads."""

    def __init__(self, parameters: CatParameters) -> None:
        column = parameters.columns()
        varied = parameters.varied()
        self._one = torch.ones_like(column["ear_size"])
        self._place_skin(column)
        self.ears = Ears(column, varied)
        self._fur = FurShape(column, varied, self._cheek.start + self._cheek.axis)
        self._place_features(column)
        self._place_lids(column)
        self._lids = column["eyelids"] if "eyelids" in varied else None
        self._tongue = column["tongue"] if "tongue" in varied else None

    @property
    def has_long_fur(self) -> bool:
        """Whether any cat of the batch has a ruff, a mane or locks."""
        return self._fur.is_long

    @property
    def bound_radius(self) -> float:
        """Radius of a ball around the origin that contains the heads, in world units."""
        reach = _HEAD_REACH + (_LONG_FUR if self.has_long_fur else 0.0)
        return max(reach, float(self.ears.reach().max()) + 0.01)

    def _place_skin(self, column: dict[str, Tensor]) -> None:
        one, width, cheek = self._one, column["head_width"], column["cheek_width"]
        muzzle, chin = column["muzzle_size"], column["chin"]
        short = column["muzzle_length"] - 1
        self._cranium_center = stack_points(0.0, -0.015, -0.03, like=one)
        self._cranium_radii = (0.190 * width, 0.168 * one * column["head_height"], 0.170 * one)
        start = stack_points(0.085 * width, -0.075, 0.045, like=one)
        end = stack_points(0.085 * width + 0.088 * cheek, -0.095, -0.01, like=one)
        self._cheek = RoundCone(start, end - start, 0.082 * cheek, 0.042 * one)
        start = stack_points(0.0, 0.02, 0.10, like=one)
        end = stack_points(0.0, -0.068, 0.130 + 0.025 * muzzle + 0.030 * short, like=one)
        bridge = column["bridge_width"]
        self._bridge = RoundCone(start, end - start, 0.050 * one * bridge, 0.033 * muzzle * bridge)
        pad = column["pad_size"]
        self._pad_center = stack_points(
            0.036 * muzzle, -0.105, 0.100 + 0.035 * muzzle + 0.030 * short, like=one
        )
        self._pad_radii = tuple(radius * muzzle * pad for radius in (0.052, 0.044, 0.050))
        self._chin_center = stack_points(
            0.0, -0.148 - 0.012 * chin, 0.095 + 0.025 * chin + 0.018 * short, like=one
        )
        self._chin_radius = 0.036 + 0.012 * chin
        start, axis = (stack_points(0.0, *yz, like=one) for yz in ((-0.12, -0.065), (-0.072, 0.0)))
        self._neck = RoundCone(start, axis, 0.135 * one, 0.133 + 0.012 * cheek)

    def _place_features(self, column: dict[str, Tensor]) -> None:
        one, muzzle = self._one, column["muzzle_size"]
        mouth = column["mouth_width"] * muzzle
        smile, rise = column["smile"], 0.03 * column["nose_height"]
        size = column["nose_size"]
        eye, nose_bottom, nose_side, *lip = self._on_skin(
            [
                (0.079 * column["eye_spacing"], 0.002),
                (0.0, -0.078 + rise),
                (0.017 * size, -0.061 + rise + 0.017 * (size - 1)),
                (0.0, -0.088 + rise),
                (0.0, -0.112),
                (0.023 * mouth, -0.124 - 0.003 * smile),
                (0.048 * mouth, -0.110 + 0.014 * smile),
            ]
        )
        self.eye_radius = 0.054 * column["eye_size"]
        # Eyes face further forward than the skin around them.
        outward = normalize(eye - self._cranium_center, dim=-1)
        self.eye_axis = normalize(outward + stack_points(0.0, 0.0, 0.9, like=one), dim=-1)
        self.eye_right = normalize(
            torch.linalg.cross(stack_points(0.0, 1.0, 0.0, like=one), self.eye_axis), dim=-1
        )
        self.eye_up = torch.linalg.cross(self.eye_axis, self.eye_right)
        # The eyeball is sunk by part of its radius, so that a wide cap is visible.
        self.eye_center = eye - 0.50 * self.eye_radius * self.eye_axis
        # Lips are sunk slightly, to look like a line in the fur rather than a tube on it.
        self._lip = [corner - stack_points(0.0, 0.0, 0.003, like=one) for corner in lip]
        radius = 0.0135 * (0.6 + 0.4 * muzzle) * size
        start = nose_bottom - stack_points(0.0, 0.0, 0.002, like=one)
        self._nose = RoundCone(start, nose_side - nose_bottom, radius, radius)
        self._tongue_axis = stack_points(0.0, -0.030, 0.006, like=one)

    def _place_lids(self, column: dict[str, Tensor]) -> None:
        """Place lids whose edges are great circles through the corners of the eye."""
        lids, slant = column["eyelids"], column["eye_slant"]
        up = slant.cos() * self.eye_up - slant.sin() * self.eye_right
        upper, lower = 1.20 - 0.85 * lids, 1.25 - 0.60 * lids
        self._upper_lid = upper.cos() * up - upper.sin() * self.eye_axis
        self._lower_lid = -lower.cos() * up - lower.sin() * self.eye_axis

    def _on_skin(
        self, places: list[tuple[Tensor | float, Tensor | float]]
    ) -> list[Tensor]:  # [B, 3] each
        """Return the skin points visible from the front at the given (x, y)."""
        x = torch.cat([self._one * x for x, _ in places], dim=-1)
        y = torch.cat([self._one * y for _, y in places], dim=-1)
        z = torch.full_like(x, 0.3)
        for _ in range(24):
            z = z - self._bare_distance((x, y, z))
        return list(torch.stack([x, y, z], dim=-1).unbind(1))

    def _bare_distance(self, folded: Coordinates) -> Tensor:  # [B, N]
        """Return the distance to cranium, cheeks, muzzle, chin and neck, smoothly joined."""
        skin = ellipsoid_distance(offset_from(folded, self._cranium_center), self._cranium_radii)
        pad = ellipsoid_distance(offset_from(folded, self._pad_center), self._pad_radii)
        chin = sphere_distance(offset_from(folded, self._chin_center), self._chin_radius)
        skin = smooth_union(skin, self._neck.distance(folded), 0.09)
        skin = smooth_union(skin, self._cheek.distance(folded), 0.05)
        skin = smooth_union(skin, self._bridge.distance(folded), 0.05)
        return smooth_union(skin, smooth_union(pad, chin, 0.02), 0.025)

    def _skin_distance(self, folded: Coordinates) -> Tensor:  # [B, N]
        skin = self._fur.apply(self._bare_distance(folded), folded)
        if self._lids is None:
            return skin
        radius = self.eye_radius + _LID_THICKNESS
        shell = sphere_distance(offset_from(folded, self.eye_center), radius)
        lids = smooth_intersection(shell, self.lid_opening(folded), 0.006)
        return torch.where(self._lids > 0, smooth_union(skin, lids, 0.012), skin)

    def lid_opening(self, folded: Coordinates) -> Tensor:  # [B, N]
        """Return the distance into the opening between the lids, negative on the lids."""
        offset = offset_from(folded, self.eye_center)
        above, below = (along_axis(offset, lid) for lid in (self._upper_lid, self._lower_lid))
        return -torch.maximum(above, below)

    def _mouth_distance(self, folded: Coordinates) -> Tensor:
        parts = chain(self._lip, [_MOUTH_RADIUS * self._one] * len(self._lip))
        lips = reduce(torch.minimum, (part.distance(folded) for part in parts))
        if self._tongue is None:
            return lips
        both = torch.minimum(lips, self.tongue_distance(folded))
        return torch.where(self._tongue > 0, both, lips)

    def tongue_distance(self, folded: Coordinates) -> Tensor:  # [B, N]
        """Return the distance to the tongue, for cats that show it."""
        tongue = self._tongue.clamp(min=0.05)
        radius = _TONGUE_RADIUS * (0.6 + 0.4 * tongue)
        cone = RoundCone(self._lip[1], self._tongue_axis * tongue, radius, radius)
        return cone.distance(folded)

    def part_distances(self, folded: Coordinates) -> list[Tensor]:  # 5 of [B, N]
        """Return the distances to skin, ears, eyes, mouth and nose."""
        return [
            self._skin_distance(folded),
            self.ears.distance(folded),
            sphere_distance(offset_from(folded, self.eye_center), self.eye_radius),
            self._mouth_distance(folded),
            self._nose.distance(folded),
        ]

    def distance(self, folded: Coordinates) -> Tensor:  # [B, N]
        """Return the distance to the whole head."""
        return reduce(torch.minimum, self.part_distances(folded))
