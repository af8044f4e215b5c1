"""Procedural cats as a field: exact signed distances and shaded colours at any point."""

from torch import Tensor

from mate3d.procedural.cats.cat import CatParameters
from mate3d.procedural.cats.coat import Coat
from mate3d.procedural.cats.head import HeadShape
from mate3d.procedural.portrait_field import Coordinates, PortraitField


class CatField(PortraitField):
    """A batch of cat heads in world units, looking along +z; classes of CATMASK_HQ."""

    is_folded = True

    def __init__(self, parameters: CatParameters) -> None:
        self._shape = HeadShape(parameters)
        super().__init__(parameters.background_color, self._shape.bound_radius)
        self.parameters = parameters
        # Smooth cats need fewer steps, except for one silhouette pixel in 10,000. Datasets and the
        # demo generator were made with these values.
        self.max_steps = 96 if self._shape.has_long_fur else 64
        self._coat = Coat(parameters, self._shape)

    def distance(self, place: Coordinates) -> Tensor:  # [B, N]
        return self._shape.distance(place)

    def part_distances(self, place: Coordinates) -> list[Tensor]:  # 5 of [B, N]
        return self._shape.part_distances(place)

    def albedo(
        self,
        points: Tensor,  # [B, N, 3]
        place: Coordinates,
        part_distances: list[Tensor],
        head_distance: Tensor,
    ) -> Tensor:  # [B, 3, N]
        return self._coat.albedo(points[..., 0], place, part_distances, head_distance)
