"""Base class of procedural portraits as fields: chunking, normals, shading, density."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from mate3d.network.sdf_decoder import sdf_to_density
from mate3d.rendering.field import FieldSamples

Coordinates = tuple[Tensor, Tensor, Tensor]  # x, y, z, each [B, N]
BACKGROUND_SDF = 0.5
_NORMAL_STEP = 0.002
# Sharp enough for a thin surface, soft enough to be found with a few dozen samples per ray.
_DENSITY_BETA = 0.004
_KEY_LIGHT = (0.0, 0.62, 0.785)
# Larger chunks do not fit in a core's cache and are slower.
_CHUNK_POINTS = 16384


class PortraitField(ABC):
    """A batch of heads around the origin: a `Field` made of distances and unshaded colours.

    Subclasses for each kind of portrait implement `distance`, `part_distances` and `albedo`.
    Colours are independent of the view: key light, fill light and ambient occlusion are baked in.

    Args:
        background: [B, 3] background colour in 0..1.
        bound_radius: Radius of a ball around the origin that contains the heads, in world units.
    """

    # Whether distances are mirror-symmetric, hence evaluated at (|x|, y, z).
    is_folded = False
    # Step limit for rays that graze a silhouette.
    max_steps = 96

    def __init__(self, background: Tensor, bound_radius: float) -> None:
        self.background = background
        self.bound_radius = bound_radius

    @abstractmethod
    def distance(self, place: Coordinates) -> Tensor:  # [B, N]
        """Return the distance to the whole head, the minimum of `part_distances`."""

    @abstractmethod
    def part_distances(self, place: Coordinates) -> list[Tensor]:  # K - 1 of [B, N]
        """Return the distance to each class except the background, in order of label id."""

    @abstractmethod
    def albedo(
        self,
        points: Tensor,  # [B, N, 3], not folded
        place: Coordinates,
        part_distances: list[Tensor],  # K - 1 of [B, N]
        head_distance: Tensor,  # [B, N]
    ) -> Tensor:  # [B, 3, N]
        """Return the unshaded colour in 0..1."""

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.background.device

    def density(
        self,
        sdf: Tensor,  # [...]
    ) -> Tensor:  # [...], per world unit
        """Convert distances to the density of a thin surface, for volume rendering."""
        return sdf_to_density(sdf, _DENSITY_BETA)

    def sample(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> FieldSamples:
        """Return shaded RGB in 0..1, the head's distance and the distance of each class."""
        features, class_sdf = _in_chunks(self._sample_chunk, points)
        return FieldSamples(
            features=features, sdf=class_sdf.amin(dim=-1, keepdim=True), class_sdf=class_sdf
        )

    def class_sdf(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, K]
        """Return only the distance of each class; the background's is constant."""
        return _in_chunks(
            lambda chunk: (_stack_classes(self.part_distances(self._place(chunk))),), points
        )[0]

    def sdf(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, 1]
        """Return only the head's distance."""
        (distance,) = _in_chunks(lambda chunk: (self.distance(self._place(chunk)),), points)
        return distance[..., None].clamp(max=BACKGROUND_SDF)

    def normals(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, 3]
        """Return the unit gradient of the head's distance, by finite differences."""

        def normals_of(chunk: Tensor) -> tuple[Tensor]:
            place = self._place(chunk)
            x, y, z = self._normal(place, self.distance(place))
            if self.is_folded:
                x = torch.where(chunk[..., 0] < 0, -x, x)
            return (torch.stack([x, y, z], dim=-1),)

        return _in_chunks(normals_of, points)[0]

    def _place(self, points: Tensor) -> Coordinates:  # [B, N, 3]
        x, y, z = points.movedim(-1, 0).contiguous().unbind(0)
        return (x.abs() if self.is_folded else x), y, z

    def _sample_chunk(self, points: Tensor) -> tuple[Tensor, Tensor]:
        place = self._place(points)
        parts = self.part_distances(place)
        class_sdf = _stack_classes(parts)
        distance = class_sdf[..., 1:].amin(dim=-1)
        albedo = self.albedo(points, place, parts, distance)
        light = self._light(place, distance, self._normal(place, distance))
        return (albedo * light[:, None]).clamp_(0, 1).transpose(1, 2), class_sdf

    def _normal(self, place: Coordinates, distance: Tensor) -> Coordinates:
        x, y, z = place
        step = _NORMAL_STEP
        slopes = [
            self.distance(moved).sub_(distance)
            for moved in ((x + step, y, z), (x, y + step, z), (x, y, z + step))
        ]
        squared = slopes[0].square() + slopes[1].square() + slopes[2].square()
        inverse = squared.sqrt_().clamp_(min=1e-8).reciprocal_()
        return tuple(slope.mul_(inverse) for slope in slopes)

    def _light(self, place: Coordinates, distance: Tensor, normal: Coordinates) -> Tensor:
        """Return wrapped Lambert key light from above the camera, sky fill and occlusion."""
        openness = self._openness(place, distance, normal, ((0.02, 0.35), (0.06, 0.45)))
        key = sum(slope * axis for slope, axis in zip(normal, _KEY_LIGHT, strict=True))
        key = ((key + 0.3) / 1.3).clamp_(min=0)
        sky = 0.36 + 0.14 * normal[1]
        return (0.62 * key + sky) * openness + 0.08

    def _openness(
        self,
        place: Coordinates,
        distance: Tensor,  # [B, N]
        normal: Coordinates,
        probes: tuple[tuple[float, float], ...],
    ) -> Tensor:  # [B, N] 1 where nothing is near
        """Return 1 - ambient occlusion; each probe is a distance outwards and its weight."""
        openness = 1.0
        for reach, share in probes:
            moved = tuple(axis + reach * slope for axis, slope in zip(place, normal, strict=True))
            rise = self.distance(moved).sub_(distance).div_(reach)
            openness = openness - share * (1 - rise).clamp_(0, 1)
        return openness


def _in_chunks(
    function: Callable[[Tensor], tuple[Tensor, ...]],
    points: Tensor,  # [B, N, 3]
) -> tuple[Tensor, ...]:
    """Call a function of points in cache-sized chunks on a CPU, in one piece elsewhere."""
    if points.device.type != "cpu":
        return function(points)
    size = max(1, _CHUNK_POINTS // len(points))
    results = [function(chunk) for chunk in points.split(size, dim=1)]
    return tuple(torch.cat(parts, dim=1) for parts in zip(*results, strict=True))


def _stack_classes(parts: list[Tensor]) -> Tensor:  # [B, N, K]
    background = torch.full_like(parts[0], BACKGROUND_SDF)
    return torch.stack([background, *parts], dim=-1)
