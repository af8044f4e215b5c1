"""Colours of a procedural cat: fur with its pattern, ears, eyes, mouth and nose, unshaded."""

import torch
from torch import Tensor

from mate3d.procedural.cat import CatParameters
from mate3d.procedural.head import HeadShape
from mate3d.procedural.portrait_field import Coordinates

_BORDER = 0.004
_MOUTH_COLOR = (0.22, 0.09, 0.09)
_EYE_LINER = (0.10, 0.07, 0.07)
_INNER_EAR = (0.93, 0.64, 0.62)


def _ramp(value: Tensor, low: float, high: float) -> Tensor:
    """Rise linearly from 0 at `low` to 1 at `high` (falls where high < low)."""
    return ((value - low) * (1 / (high - low))).clamp_(0, 1)


def _mix(
    color: Tensor,  # [B, 3, N or 1]
    other: Tensor,  # [B, 3, 1] or [3, 1]
    weight: Tensor,  # [B, N]
) -> Tensor:  # [B, 3, N]
    return torch.lerp(color, other, weight[:, None])


class Coat:
    """Unshaded colour of a batch of cats at any point."""

    def __init__(self, parameters: CatParameters, shape: HeadShape) -> None:
        self._shape = shape
        self._colors = {
            name: value[..., None] for name, value in vars(parameters).items() if value.ndim == 2
        }
        self._numbers = {
            name: value[:, None] for name, value in vars(parameters).items() if value.ndim == 1
        }

    def _constant(self, color: tuple[float, float, float]) -> Tensor:  # [3, 1]
        return self._colors["fur_color"].new_tensor(color)[:, None]

    def albedo(
        self,
        folded: Coordinates,
        part_distances: list[Tensor],  # skin, ears, eyes, mouth, nose: each [B, N]
        head_distance: Tensor,  # [B, N] their minimum
    ) -> Tensor:  # [B, 3, N]
        """Return the colour in 0..1; parts blend over a few thousandths at their borders."""
        colors = [
            self._fur(folded, part_distances),
            self._ears(folded),
            self._eyes(folded),
            self._constant(_MOUTH_COLOR),
            self._colors["nose_color"],
        ]
        total, mixed = torch.zeros_like(head_distance), torch.zeros_like(colors[0])
        for color, distance in zip(colors, part_distances, strict=True):
            weight = (head_distance - distance).mul_(1 / _BORDER).exp_()
            total += weight
            mixed.addcmul_(color.expand_as(mixed), weight[:, None])
        return mixed.div_(total[:, None])

    def _fur(self, folded: Coordinates, part_distances: list[Tensor]) -> Tensor:
        fur, second = self._colors["fur_color"], self._colors["second_color"]
        x, y, z = folded
        # Muzzle and chest are a little lighter on every cat.
        muzzle = ((x / 0.085).square_() + ((y + 0.118) / 0.058).square_()).sqrt_()
        light = _ramp(muzzle, 1.15, 0.75) * _ramp(z, 0.06, 0.11)
        color = _mix(fur, torch.lerp(fur, torch.ones_like(fur), 0.35), light)
        weight = torch.maximum(
            torch.maximum(self._stripes(folded), self._spots(folded)), self._blaze(folded)
        )
        color = _mix(color, second, weight)
        liner = _ramp(part_distances[2], 0.0075, 0.0025) * 0.8
        return _mix(color, self._constant(_EYE_LINER), liner)

    def _stripes(self, folded: Coordinates) -> Tensor:
        """Stripes fan out from the middle of the face over forehead and cheeks."""
        x, y, z = folded
        scale = self._numbers["pattern_scale"]
        height = y + 0.02
        radius = (x.square() + height.square()).sqrt_()
        angle = torch.atan2(x, height)
        wave = (angle * (15 / scale) + 0.9 * (radius * 34).sin()).cos()
        stripe = _ramp(wave, 0.0, 0.55) * _ramp(radius, 0.085, 0.105) * 0.85
        return stripe * self._numbers["tabby"]

    def _spots(self, folded: Coordinates) -> Tensor:
        x, y, z = folded
        frequency = 62 / self._numbers["pattern_scale"]
        bumps = ((x + 0.25 * y) * frequency).sin_() + ((y - 0.2 * z) * frequency + 0.7).sin_()
        bumps = bumps + ((z + 0.3 * x) * frequency).sin_()
        face = _ramp((x.square() + (y + 0.06).square()).sqrt_(), 0.06, 0.09)
        return (
            _ramp(bumps, 0.75, 1.15)
            * torch.maximum(face, _ramp(z, 0.08, 0.05))
            * (self._numbers["spots"])
        )

    def _blaze(self, folded: Coordinates) -> Tensor:
        """An inverted V from the forehead over muzzle, chin and chest."""
        x, y, z = folded
        scale = self._numbers["pattern_scale"]
        half_width = (0.018 + (0.09 - y).clamp_(min=-0.1) * 0.42) * scale
        inside = _ramp(x - half_width, 0.006, -0.006)
        front = _ramp(z, -0.05, -0.03)
        return inside * front * self._numbers["bicolor"]

    def _ears(self, folded: Coordinates) -> Tensor:
        outline, height = self._shape.ears.coordinates(folded)
        inner = _ramp(outline, -0.014, -0.024) * _ramp(height, 0.0, 0.012)
        ear = self._colors["ear_color"]
        return _mix(ear, torch.lerp(ear, self._constant(_INNER_EAR), 0.8), inner)

    def _eyes(self, folded: Coordinates) -> Tensor:
        shape = self._shape
        offset = [axis - shape.eye_center[:, i : i + 1] for i, axis in enumerate(folded)]
        length = (offset[0].square() + offset[1].square() + offset[2].square()).sqrt_()
        length = length.clamp_(min=1e-6)
        right, up = shape.eye_right, shape.eye_up
        across, above = (
            sum(offset[i] * axis[:, i : i + 1] for i in range(3)) / length for axis in (right, up)
        )
        radius = (across.square() + above.square()).sqrt_()
        iris = self._colors["eye_color"]
        # Darker above and towards the rim, lighter below: the iris looks deep.
        color = _mix(iris * 0.72, (iris * 1.15 + 0.06).clamp(max=1), _ramp(above, 0.45, -0.5))
        color = _mix(color, self._constant(_EYE_LINER), _ramp(radius, 0.72, 0.84))
        width = 0.16 + 0.30 * self._numbers["pupil_width"]
        pupil = ((across / width).square() + (above / 0.56).square()).sqrt_()
        color = _mix(color, self._constant((0.03, 0.03, 0.04)), _ramp(pupil, 1.12, 0.88))
        glint = ((across - 0.16).square() + (above - 0.30).square()).sqrt_()
        return _mix(color, torch.ones_like(iris), _ramp(glint, 0.24, 0.16))
