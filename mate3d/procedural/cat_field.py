"""Procedural cats as a field: exact signed distances and shaded colours at any point."""

from collections.abc import Callable

import torch
from torch import Tensor

from mate3d.field import FieldSamples
from mate3d.procedural.cat import CatParameters
from mate3d.procedural.coat import Coat
from mate3d.procedural.head import Coordinates, HeadShape
from mate3d.sdf_decoder import sdf_to_density

BACKGROUND_SDF = 0.5
_NORMAL_STEP = 0.002
# Sharp enough for a thin surface, soft enough for a few dozen samples a ray to find it.
_DENSITY_BETA = 0.004
_KEY_LIGHT = (0.0, 0.62, 0.785)
# Elementwise work on more points than this falls out of a core's cache and takes longer.
_CHUNK_POINTS = 16384


class CatField:
    """A batch of cats' heads in world units, looking along +z.

    Colours do not depend on the view: light, fill and ambient occlusion are part of them.
    """

    def __init__(self, parameters: CatParameters) -> None:
        self.parameters = parameters
        self.background_color = parameters.background_color  # [B, 3] in 0..1
        self._shape = HeadShape(parameters)
        self._coat = Coat(parameters, self._shape)

    @property
    def background(self) -> Tensor:  # [B, 3]
        """Return the colour behind everything, in 0..1."""
        return self.background_color

    @property
    def device(self) -> torch.device:
        """The parameters'."""
        return self.background_color.device

    def density(
        self,
        sdf: Tensor,  # [...]
    ) -> Tensor:  # [...], per world unit
        """Turn distances into the density of a thin surface, for the volume renderer."""
        return sdf_to_density(sdf, _DENSITY_BETA)

    def sample(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> FieldSamples:
        """Return shaded RGB in 0..1, the head's distance and the distance of each class."""
        features, class_sdf = self._in_chunks(self._sample_chunk, points)
        return FieldSamples(
            features=features, sdf=class_sdf.amin(dim=-1, keepdim=True), class_sdf=class_sdf
        )

    def class_sdf(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, 6]
        """Return the distance of each class alone; the background's is a constant."""
        return self._in_chunks(
            lambda chunk: (_stack_classes(self._shape.part_distances(_fold(chunk))),), points
        )[0]

    def sdf(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, 1]
        """Return the head's distance alone."""
        return self._in_chunks(
            lambda chunk: (self._shape.distance(_fold(chunk))[..., None],), points
        )[0].clamp(max=BACKGROUND_SDF)

    def normals(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, 3]
        """Return the unit gradient of the head's distance, by finite differences."""

        def normals_of(chunk: Tensor) -> tuple[Tensor]:
            folded = _fold(chunk)
            normal = self._folded_normal(folded, self._shape.distance(folded))
            return (_unfold(normal, chunk),)

        return self._in_chunks(normals_of, points)[0]

    def _in_chunks(
        self, function: Callable[[Tensor], tuple[Tensor, ...]], points: Tensor
    ) -> tuple[Tensor, ...]:
        if points.device.type != "cpu":
            return function(points)
        size = max(1, _CHUNK_POINTS // len(points))
        results = [function(chunk) for chunk in points.split(size, dim=1)]
        return tuple(torch.cat(parts, dim=1) for parts in zip(*results, strict=True))

    def _sample_chunk(self, points: Tensor) -> tuple[Tensor, Tensor]:
        folded = _fold(points)
        parts = self._shape.part_distances(folded)
        class_sdf = _stack_classes(parts)
        distance = class_sdf[..., 1:].amin(dim=-1)
        albedo = self._coat.albedo(folded, parts, distance)
        light = self._light(folded, distance, self._folded_normal(folded, distance))
        return (albedo * light[:, None]).clamp_(0, 1).transpose(1, 2), class_sdf

    def _folded_normal(self, folded: Coordinates, distance: Tensor) -> Coordinates:
        x, y, z = folded
        step = _NORMAL_STEP
        slopes = [
            self._shape.distance(moved).sub_(distance)
            for moved in ((x + step, y, z), (x, y + step, z), (x, y, z + step))
        ]
        squared = slopes[0].square() + slopes[1].square() + slopes[2].square()
        inverse = squared.sqrt_().clamp_(min=1e-8).reciprocal_()
        return tuple(slope.mul_(inverse) for slope in slopes)

    def _light(self, folded: Coordinates, distance: Tensor, normal: Coordinates) -> Tensor:
        """Wrapped Lambert key light from above the camera, sky fill, ambient occlusion."""
        openness = 1.0
        for reach, share in ((0.02, 0.35), (0.06, 0.45)):
            moved = tuple(axis + reach * slope for axis, slope in zip(folded, normal, strict=True))
            rise = self._shape.distance(moved).sub_(distance).div_(reach)
            openness = openness - share * (1 - rise).clamp_(0, 1)
        key = sum(slope * axis for slope, axis in zip(normal, _KEY_LIGHT, strict=True))
        key = ((key + 0.3) / 1.3).clamp_(min=0)
        sky = 0.36 + 0.14 * normal[1]
        return (0.62 * key + sky) * openness + 0.08


def _fold(points: Tensor) -> Coordinates:  # [B, N, 3]
    x, y, z = points.movedim(-1, 0).contiguous().unbind(0)
    return x.abs(), y, z


def _unfold(normal: Coordinates, points: Tensor) -> Tensor:  # [B, N, 3]
    x = torch.where(points[..., 0] < 0, -normal[0], normal[0])
    return torch.stack([x, normal[1], normal[2]], dim=-1)


def _stack_classes(parts: list[Tensor]) -> Tensor:  # [B, N, 6]
    background = torch.full_like(parts[0], BACKGROUND_SDF)
    return torch.stack([background, *parts], dim=-1)
