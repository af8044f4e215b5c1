"""Looking into a field in two steps: distances first, and the rest only where it shows."""

from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Protocol

import torch
from torch import Tensor

from mate3d.rendering.field import Field, TriPlaneField, field_gradient
from mate3d.rendering.triplane import PLANE_AXES, look_up_planes
from torch_utils.ops.triplane_tables import Corners, find_corners, look_up, make_table


class FieldProbe(Protocol):
    """A field that remembers what it found out at points while it told their distances."""

    field: Field

    def begin(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[Tensor, Any]:  # sdf [B, N, 1], and what `finish` needs
        """Return the global distance at points."""

    def finish(
        self,
        state: Any,
        points: Tensor,  # [B, N, 3], those of `begin`
        chosen: Tensor,  # [M], ascending positions among the B * N points
        *,
        with_classes: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return colours [M, C] and class distances [M, K] at some of the points.

        Without classes K is 0.
        """

    def sdf_gradient(
        self,
        state: Any,
        points: Tensor,  # [B, N, 3], those of `begin`
        chosen: Tensor,  # [M], ascending positions among the B * N points
    ) -> Tensor:  # [M, 3]
        """Return the gradient of the global distance at some of the points."""
        padded, is_chosen = _pad(points, chosen)
        return field_gradient(self.field, padded)[is_chosen]


@singledispatch
def open_probe(field: Field) -> FieldProbe:
    """Return a probe of a field: a general one unless the field's type has its own."""
    return AnyFieldProbe(field)


@dataclass(frozen=True)
class AnyFieldProbe(FieldProbe):
    """Evaluates a field once for distances, and as a whole where more is asked for."""

    field: Field

    def begin(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[Tensor, None]:
        """See `FieldProbe`."""
        return self.field.sdf(points), None

    def finish(
        self,
        state: None,
        points: Tensor,  # [B, N, 3]
        chosen: Tensor,  # [M]
        *,
        with_classes: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `FieldProbe`."""
        padded, is_chosen = _pad(points, chosen)
        values = self.field.sample(padded)
        class_sdf = values.class_sdf if with_classes else values.class_sdf[..., :0]
        return values.features[is_chosen], class_sdf[is_chosen]


def _pad(
    points: Tensor,  # [B, N, 3]
    chosen: Tensor,  # [M]
) -> tuple[Tensor, Tensor]:  # [B, W, 3], [B, W]
    """Return chosen points of each batch item, filled up to as many in each, and which are not."""
    num_batch, per_item = points.shape[:2]
    item = chosen.div(per_item, rounding_mode="floor")
    counts = item.bincount(minlength=num_batch)
    place = torch.arange(len(chosen), device=chosen.device) - (counts.cumsum(0) - counts)[item]
    width = max(int(counts.max()), 1)
    index = chosen.new_zeros(num_batch, width)
    index[item, place] = chosen % per_item
    is_chosen = torch.zeros_like(index, dtype=torch.bool)
    is_chosen[item, place] = True
    return points.gather(1, index[..., None].expand(-1, -1, 3)), is_chosen


class TriPlaneProbe(FieldProbe):
    """Looks shape features up once for each point, and texture features where they show.

    Args:
        field: Its planes must not change while the probe is used.
        with_corners: Also find each point's pixels once only, and keep them. On a GPU one kernel
            finds them and reads the planes, faster than what is kept could be read again; None
            decides by the device.
    """

    def __init__(self, field: TriPlaneField, *, with_corners: bool | None = None):
        self.field = field
        is_cpu = field.device.type == "cpu"
        self._with_corners = is_cpu if with_corners is None else with_corners
        self._shape_table = make_table(field.shape_planes)
        self._has_one_table = field.texture_planes is field.shape_planes
        self._texture_table = (
            self._shape_table if self._has_one_table else make_table(field.texture_planes)
        )

    def begin(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[Tensor, tuple[Corners | None, Tensor]]:
        """See `FieldProbe`."""
        corners = self._find_corners(points) if self._with_corners else None
        features = self._look_up(self._shape_table, points, corners)
        sdf = self.field.decoder.sdf(features.unflatten(0, points.shape[:2]))
        return sdf, (corners, features)

    def finish(
        self,
        state: tuple[Corners | None, Tensor],
        points: Tensor,  # [B, N, 3]
        chosen: Tensor,  # [M]
        *,
        with_classes: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `FieldProbe`."""
        corners, shape_features = state
        shape_features = shape_features.index_select(0, chosen)
        texture_features = shape_features
        if corners is not None and not self._has_one_table:
            texture_features = look_up(self._texture_table, corners.take(chosen))
        elif not self._has_one_table:
            padded, is_chosen = _pad(points, chosen)
            texture_features = self._look_up(self._texture_table, padded, None)
            texture_features = texture_features[is_chosen.flatten()]
        colors = self.field.decoder.colors(texture_features)
        if not with_classes:
            return colors, colors.new_empty(len(colors), 0)
        return colors, self.field.decoder.class_distances(shape_features)

    def class_distances(
        self,
        state: tuple[Corners | None, Tensor],
    ) -> Tensor:  # [B * N, K]
        """Return the class distances at all points of `begin`."""
        return self.field.decoder.class_distances(state[1])

    def _find_corners(self, points: Tensor) -> Corners:
        field = self.field
        size = field.shape_planes.shape[-2:]
        return find_corners(
            points * (2 / field.box_size), PLANE_AXES[field.plane_layout], (size[0], size[1])
        )

    def _look_up(
        self,
        table: Tensor,
        points: Tensor,  # [B, N, 3]
        corners: Corners | None,
    ) -> Tensor:  # [B * N, C]
        if corners is not None:
            return look_up(table, corners)
        field = self.field
        batch, planes, channels, height, width = field.shape_planes.shape
        channels_last = table.view(batch, planes, height, width, channels).movedim(-1, 2)
        features = look_up_planes(channels_last, points, field.box_size, field.plane_layout)
        return features.flatten(0, 1)


@open_probe.register
def _(field: TriPlaneField) -> FieldProbe:
    return TriPlaneProbe(field)
