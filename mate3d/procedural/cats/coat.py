"""Colours of a procedural cat: fur with its pattern, ears, eyes, mouth and nose, unshaded."""

import torch
from torch import Tensor

from mate3d.procedural.cats.cat import CatParameters
from mate3d.procedural.cats.head import HeadShape
from mate3d.procedural.cats.markings import Markings
from mate3d.procedural.portrait_field import Coordinates
from mate3d.procedural.primitives import along_axis, blend, mix, offset_from, ramp

_BORDER = 0.004
_MOUTH_COLOR = (0.22, 0.09, 0.09)
_EYE_LINER = (0.10, 0.07, 0.07)
_IRIS_RING = (0.97, 0.85, 0.45)
_TONGUE_COLOR = (0.93, 0.50, 0.52)


class Coat:
    """Unshaded colour of a batch of cats at any point."""

    def __init__(self, parameters: CatParameters, shape: HeadShape) -> None:
        self._shape = shape
        self._colors, self._numbers = parameters.colors(), parameters.columns()
        self._varied = parameters.varied()
        self._markings = Markings(self._numbers, self._varied, shape.eye_center)

    def _constant(self, color: tuple[float, float, float]) -> Tensor:  # [3, 1]
        return self._colors["fur_color"].new_tensor(color)[:, None]

    def albedo(
        self,
        side: Tensor,  # [B, N], x before folding
        folded: Coordinates,
        part_distances: list[Tensor],  # skin, ears, eyes, mouth, nose: each [B, N]
        head_distance: Tensor,  # [B, N] their minimum
    ) -> Tensor:  # [B, 3, N]
        """Return the colour in 0..1; parts blend over a few thousandths of a unit at borders."""
        colors = [
            self._fur(side, folded, part_distances),
            self._ears(side, folded),
            self._eyes(side, folded),
            self._mouth(folded),
            self._colors["nose_color"],
        ]
        return blend(colors, part_distances, head_distance, _BORDER)

    def _fur(self, side: Tensor, folded: Coordinates, part_distances: list[Tensor]) -> Tensor:
        fur, second = self._colors["fur_color"], self._colors["second_color"]
        x, y, z = folded
        # Every cat's muzzle and chest are slightly lighter.
        muzzle = ((x / 0.085).square_() + ((y + 0.118) / 0.058).square_()).sqrt_()
        light = ramp(muzzle, 1.15, 0.75) * ramp(z, 0.06, 0.11)
        color = mix(fur, torch.lerp(fur, torch.ones_like(fur), 0.35), light)
        weight = torch.maximum(
            torch.maximum(self._stripes(folded), self._spots(folded)), self._blaze(folded)
        )
        color = self._mark(mix(color, second, weight), side, folded)
        if "points" in self._varied:
            color = mix(color, self._colors["point_color"], self._markings.point_weight(folded))
        if "fur_length" in self._varied:
            color = (color * self._markings.lock_shade(folded)[:, None]).clamp_(0, 1)
        liner = ramp(part_distances[2], 0.0075, 0.0025) * 0.8
        if "eyelids" in self._varied:
            at_edge = ramp(-self._shape.lid_opening(folded), 0.0085, 0.0035) * 0.9
            near = ramp(part_distances[2], 0.016, 0.010)
            liner = torch.where(self._numbers["eyelids"] > 0, at_edge * near, liner)
        return mix(color, self._constant(_EYE_LINER), liner)

    def _mark(self, color: Tensor, side: Tensor, folded: Coordinates) -> Tensor:
        """Paint the patches that fur and ears share."""
        if "calico" in self._varied:
            patches = self._markings.patches(side, folded, shift=2.1)
            color = mix(color, self._colors["third_color"], patches)
        second = self._markings.second_weight(side, folded)
        return color if second is None else mix(color, self._colors["second_color"], second)

    def _stripes(self, folded: Coordinates) -> Tensor:
        """Stripes fan out from the middle of the face over forehead and cheeks."""
        x, y, z = folded
        scale = self._numbers["pattern_scale"]
        height = y + 0.02
        radius = (x.square() + height.square()).sqrt_()
        angle = torch.atan2(x, height)
        wave = (angle * (15 / scale) + 0.9 * (radius * 34).sin()).cos()
        stripe = ramp(wave, 0.0, 0.55) * ramp(radius, 0.085, 0.105) * 0.85
        return stripe * self._numbers["tabby"]

    def _spots(self, folded: Coordinates) -> Tensor:
        x, y, z = folded
        frequency = 62 / self._numbers["pattern_scale"]
        bumps = ((x + 0.25 * y) * frequency).sin_() + ((y - 0.2 * z) * frequency + 0.7).sin_()
        bumps = bumps + ((z + 0.3 * x) * frequency).sin_()
        face = ramp((x.square() + (y + 0.06).square()).sqrt_(), 0.06, 0.09)
        outside = torch.maximum(face, ramp(z, 0.08, 0.05))
        return ramp(bumps, 0.75, 1.15) * outside * self._numbers["spots"]

    def _blaze(self, folded: Coordinates) -> Tensor:
        """An inverted V from the forehead over muzzle, chin and chest."""
        x, y, z = folded
        scale = self._numbers["pattern_scale"]
        top = 0.09 + 0.1 * self._numbers["blaze_height"]
        half_width = (0.018 + (top - y).clamp_(min=-0.1) * 0.42) * scale
        half_width = half_width * self._numbers["blaze_width"]
        inside = ramp(x - half_width, 0.006, -0.006)
        front = ramp(z, -0.05, -0.03)
        return inside * front * self._numbers["bicolor"]

    def _ears(self, side: Tensor, folded: Coordinates) -> Tensor:
        outline, height = self._shape.ears.coordinates(folded)
        inner = ramp(outline, -0.014, -0.024) * ramp(height, 0.0, 0.012)
        ear = self._mark(self._colors["ear_color"], side, folded)
        if "points" in self._varied:
            ear = mix(ear, self._colors["point_color"], self._numbers["points"])
        return mix(ear, torch.lerp(ear, self._colors["inner_ear_color"], 0.8), inner)

    def _mouth(self, folded: Coordinates) -> Tensor:
        mouth = self._constant(_MOUTH_COLOR)
        if "tongue" not in self._varied:
            return mouth
        is_shown = self._numbers["tongue"] > 0
        tongue = ramp(self._shape.tongue_distance(folded), 0.003, 0.0) * is_shown
        return mix(mouth[None], self._constant(_TONGUE_COLOR), tongue)

    def _eyes(self, side: Tensor, folded: Coordinates) -> Tensor:
        shape = self._shape
        offset = offset_from(folded, shape.eye_center)
        length = (offset[0].square() + offset[1].square() + offset[2].square()).sqrt_()
        length = length.clamp_(min=1e-6)
        across, above = (
            along_axis(offset, axis) / length for axis in (shape.eye_right, shape.eye_up)
        )
        radius = (across.square() + above.square()).sqrt_()
        iris = self._iris(side, radius)
        # Darker above and towards the rim, lighter below, to give the iris depth.
        color = mix(iris * 0.72, (iris * 1.15 + 0.06).clamp(max=1), ramp(above, 0.45, -0.5))
        color = mix(color, self._constant(_EYE_LINER), ramp(radius, 0.72, 0.84))
        width = 0.16 + 0.30 * self._numbers["pupil_width"]
        pupil = ((across / width).square() + (above / 0.56).square()).sqrt_()
        color = mix(color, self._constant((0.03, 0.03, 0.04)), ramp(pupil, 1.12, 0.88))
        glint = ((across - 0.16).square() + (above - 0.30).square()).sqrt_()
        return mix(color, torch.ones_like(iris), ramp(glint, 0.24, 0.16))

    def _iris(self, side: Tensor, radius: Tensor) -> Tensor:  # [B, 3, N or 1]
        iris = self._colors["eye_color"]
        if "odd_eyes" in self._varied:
            share = ramp(side, 0.0, 0.001) * self._numbers["odd_eyes"]
            iris = mix(iris, self._colors["odd_eye_color"], share)
        if "iris_ring" in self._varied:
            share = ramp(radius, 0.66, 0.46) * self._numbers["iris_ring"]
            iris = mix(iris, self._constant(_IRIS_RING), 0.85 * share)
        return iris
