"""Markings of varied procedural cats: where each colour appears on the fur."""

import math

import torch
from torch import Tensor

from mate3d.procedural.portrait_field import Coordinates
from mate3d.procedural.primitives import offset_from, ramp


class Markings:
    """Weights in 0..1 of a batch's markings at points."""

    def __init__(
        self,
        column: dict[str, Tensor],  # [B, 1] each
        varied: frozenset[str],
        eye_center: Tensor,  # [B, 3]
    ) -> None:
        self._column = column
        self._varied = varied
        self._eye_center = eye_center

    def second_weight(
        self,
        side: Tensor,  # [B, N], x before folding
        folded: Coordinates,
    ) -> Tensor | None:
        """Return the weight of the second colour in bib, eye patch and first calico patches."""
        weights = []
        if "bib" in self._varied:
            weights.append(self._bib(folded))
        if "eye_patch" in self._varied:
            weights.append(self._eye_patch(side, folded))
        if "calico" in self._varied:
            weights.append(self.patches(side, folded, shift=0.0))
        return torch.stack(weights).amax(dim=0) if weights else None

    def point_weight(self, folded: Coordinates) -> Tensor:  # [B, N]
        """Return the weight of a colour-point cat's dark face mask."""
        x, y, z = folded
        # Lower and narrower than the face, from between the eyes down to the chin.
        radius = ((x / 0.112).square_() + ((y + 0.055) / 0.115).square_()).sqrt_()
        return ramp(radius, 1.30, 0.60) * ramp(z, 0.01, 0.07) * self._column["points"]

    def lock_shade(self, folded: Coordinates) -> Tensor:  # [B, N]
        """Return the factor on the fur colour that makes the locks of long fur visible."""
        x, y, z = folded
        height = y + 0.03
        radius = (x.square() + height.square()).sqrt_()
        angle = torch.atan2(x, height)
        wave = angle * 30 + 1.5 * (radius * 50).sin() + 1.1 * (z * 40).sin()
        fine = (angle * 71 + 2.0 * (radius * 30 + 2.0).sin() + 55 * z).sin()
        away = ramp(radius, 0.07, 0.13)
        shade = 0.07 * wave.sin() + 0.06 * fine
        return 1 + shade * away * self._column["fur_length"]

    def _bib(self, folded: Coordinates) -> Tensor:
        x, y, z = folded
        top = ((x / 0.075).square_() + ((y + 0.155) / 0.035).square_()).sqrt_()
        chest = ramp(y, -0.165, -0.185) * ramp(x, 0.125, 0.105)
        weight = torch.maximum(ramp(top, 1.15, 0.85), chest)
        return weight * ramp(z, -0.05, -0.02) * self._column["bib"]

    def _eye_patch(self, side: Tensor, folded: Coordinates) -> Tensor:
        x, y, _ = offset_from(folded, self._eye_center)
        wobble = 0.010 * (60 * x + 2.0).sin() + 0.008 * (75 * y).sin()
        radius = ((0.85 * (x - 0.012)).square_() + (0.75 * (y - 0.012)).square_()).sqrt_()
        # At 0 and 1 the patch is on the left of the image, at 1/2 on the right.
        sign = -(2 * math.pi * self._column["patch_place"]).cos().sign()
        this_side = ramp(side * sign, -0.008, 0.004)
        near = ramp(radius + wobble, 0.078, 0.066) * ramp(folded[2], 0.0, 0.03)
        return near * this_side * self._column["eye_patch"]

    def patches(self, side: Tensor, folded: Coordinates, *, shift: float) -> Tensor:  # [B, N]
        """Return irregular blotches, different on each side of the head and for each shift."""
        _, y, z = folded
        scale = self._column["pattern_scale"]
        phase = 2 * math.pi * self._column["patch_place"]
        x, y, z = side / scale, y / scale, z / scale
        a = 17 * x + 1.4 * (19 * y + phase + shift).sin() + phase + 2.3 * shift
        b = 15 * y + 1.3 * (17 * z + 13 * x + 2 * phase).sin() - phase + 1.7 * shift
        c = 16 * z + 1.2 * (18 * x + 1.0 + phase).sin() + 3.1 * shift
        blotch = a.sin() + b.sin() + 0.6 * c.sin() + 0.12 * (90 * (x + y)).sin()
        return ramp(blotch, 0.52, 0.62) * self._column["calico"]
