"""Procedural people as a field: signed distances of CelebAMask-HQ's classes, shaded colours.

17 of the label set's 19 classes are used: earrings (ear_r) and necklaces (neck_l) never appear;
their distance is constant. Beards are skin, and glasses (eye_g) are only frames, with the eyes
visible inside.
"""

import torch
from torch import Tensor

from mate3d.labels import CELEBAMASK_HQ
from mate3d.procedural.people.clothes import PersonClothes
from mate3d.procedural.people.colors import PersonColors
from mate3d.procedural.people.hair import PersonHair
from mate3d.procedural.people.head import Flesh, PersonHead
from mate3d.procedural.people.person import PersonParameters
from mate3d.procedural.portrait_field import BACKGROUND_SDF, Coordinates, PortraitField

BOUND_RADIUS = 0.66
# Depth below the surface to which adjacent classes overlap at their border.
_OVERLAP = 0.004
_SLOPE = 0.05
_KEY_LIGHT = (0.0, 0.52, 0.854)


class PersonField(PortraitField):
    """A batch of heads and shoulders in world units, looking along +z."""

    def __init__(self, parameters: PersonParameters) -> None:
        super().__init__(parameters.background_color, BOUND_RADIUS)
        self.parameters = parameters
        self._head = PersonHead(parameters)
        self._hair = PersonHair(parameters, self._head)
        self._clothes = PersonClothes(parameters, self._head)
        self._colors = PersonColors(parameters, self._head, self._hair)

    def distance(self, place: Coordinates) -> Tensor:  # [B, N]
        folded = (place[0].abs(), place[1], place[2])
        flesh = self._head.flesh(folded)
        # Equals the smallest region value; exactly one region is negative.
        border = _special_region(flesh).abs().neg_()
        nearest = torch.maximum(flesh.surface, border.sub_(_OVERLAP))
        for solid in self._symmetric_solids(folded, flesh).values():
            nearest = torch.minimum(nearest, solid)
        return torch.minimum(nearest, self._hair_distance(place, folded, flesh))

    def part_distances(self, place: Coordinates) -> list[Tensor]:  # 18 of [B, N]
        x, y, z = place
        folded = (x.abs(), y, z)
        flesh = self._head.flesh(folded)
        # The regions partition space: exactly one is negative.
        regions = {
            "skin": -_special_region(flesh),
            "nose": flesh.nose,
            "u_lip": flesh.upper_lip,
            "l_lip": flesh.lower_lip,
            "ear": flesh.ear,
            "neck": flesh.neck,
        }
        near = {
            name: torch.maximum(flesh.surface, region - _OVERLAP)
            + _SLOPE * region.clamp(0, _OVERLAP)
            for name, region in regions.items()
        }
        near |= self._symmetric_solids(folded, flesh)
        near["hair"] = self._hair_distance(place, folded, flesh)
        inner_x = {
            "eye": self._head.eye_inner_x,
            "brow": self._head.brow_inner_x,
            "ear": torch.full_like(self._head.eye_inner_x, 0.08),
        }
        for name, inner in inner_x.items():
            # A lower bound on the distance to the part on the other side of the symmetry plane.
            far = torch.maximum(near[name], folded[0] + inner)
            near["l_" + name] = torch.where(x < 0, near[name], far)
            near["r_" + name] = torch.where(x < 0, far, near[name])
        unused = torch.full_like(x, BACKGROUND_SDF)
        return [near.get(name, unused) for name in CELEBAMASK_HQ.class_names[1:]]

    def albedo(
        self,
        points: Tensor,  # [B, N, 3]
        place: Coordinates,
        part_distances: list[Tensor],
        head_distance: Tensor,
    ) -> Tensor:  # [B, 3, N]
        return self._colors.albedo(place, part_distances, head_distance)

    def _light(self, place: Coordinates, distance: Tensor, normal: Coordinates) -> Tensor:
        """Return softer light than for cats, to keep skin even, with a fixed gloss direction."""
        openness = self._openness(place, distance, normal, ((0.015, 0.18), (0.05, 0.26)))
        key = sum(slope * axis for slope, axis in zip(normal, _KEY_LIGHT, strict=True))
        key = ((key + 0.5) / 1.5).clamp_(min=0)
        gloss = key.pow(24)
        return (0.60 * key + 0.47 + 0.08 * normal[1]) * openness + 0.08 * gloss + 0.03

    def _symmetric_solids(self, folded: Coordinates, flesh: Flesh) -> dict[str, Tensor]:
        solids = {name: flesh.solids[name] for name in ("eye", "brow", "mouth")}
        solids["cloth"] = self._clothes.cloth_distance(folded)
        if self._clothes.has_glasses:
            solids["eye_g"] = self._clothes.glasses_distance(folded)
        if self._clothes.has_hat:
            solids["hat"] = self._clothes.hat_distance(folded, flesh.cranium)
        return solids

    def _hair_distance(self, place: Coordinates, folded: Coordinates, flesh: Flesh) -> Tensor:
        above = self._clothes.height_in_hat(folded) if self._clothes.has_hat else None
        return self._hair.distance(place, flesh.cranium, above)


def _special_region(flesh: Flesh) -> Tensor:  # [B, N]
    """Return a value that is negative where the surface is not skin but another class."""
    region = torch.minimum(flesh.nose, flesh.neck)
    region = torch.minimum(region, torch.minimum(flesh.upper_lip, flesh.lower_lip))
    return torch.minimum(region, flesh.ear)
