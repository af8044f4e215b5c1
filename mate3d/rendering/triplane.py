"""Tri-planes with a decoder as a field: differentiable look-ups, and a fast probe.

Training uses `look_up_planes`, which is differentiable. Rendering without gradients looks up the
same points in shape and texture planes, and the first look-up decides whether the second is
necessary: `TriPlaneProbe` computes tables and corners once for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mate3d.network.density_decoder import DensityDecoder
from mate3d.network.sdf_decoder import SDFDecoder
from mate3d.rendering.field import FieldProbe, FieldSamples, open_probe, pad_chosen
from torch_utils.ops.triplane_sample import triplane_sample, triplane_sample_points_gradient

PlaneLayout = Literal["xy_xz_yz", "xy_xz_zy", "eg3d_legacy"]

# Each plane's (horizontal, vertical) axes. EG3D's third plane repeats the xz axes transposed, so no
# plane spans y and z; weights trained that way depend on it (spec 6.1). In published weights
# trained after EG3D's fix, the third plane is the transpose of ours.
PLANE_AXES: dict[str, tuple[tuple[int, int], ...]] = {
    "xy_xz_yz": ((0, 1), (0, 2), (1, 2)),
    "xy_xz_zy": ((0, 1), (0, 2), (2, 1)),
    "eg3d_legacy": ((0, 1), (0, 2), (2, 0)),
}


def project_points(
    points: Tensor,  # [B, N, 3] in box units, -1..1 inside
    plane_layout: PlaneLayout,
) -> Tensor:  # [B, 3, N, 2], (horizontal, vertical) on each plane
    """Return the coordinates of points on the three planes."""
    # Not by a list of axes, which would be copied to the device.
    axis = points.unbind(-1)
    on_planes = [torch.stack([axis[h], axis[v]], -1) for h, v in PLANE_AXES[plane_layout]]
    return torch.stack(on_planes, dim=1)


def look_up_planes(
    planes: Tensor,  # [B, 3, C, P, P]
    points: Tensor,  # [B, N, 3], world
    box_size: float,
    plane_layout: PlaneLayout,
) -> Tensor:  # [B, N, C]
    """Return the mean of bilinear look-ups in three planes; zero outside the box."""
    return triplane_sample(planes, project_points(points * (2 / box_size), plane_layout))


def pull_back_to_points(
    grad_features: Tensor,  # [B, N, C]
    planes: Tensor,  # [B, 3, C, P, P]
    points: Tensor,  # [B, N, 3], world
    box_size: float,
    plane_layout: PlaneLayout,
) -> Tensor:  # [B, N, 3]
    """Return the gradient at points for a gradient at the features from `look_up_planes`.

    It is the transposed Jacobian of the look-up times `grad_features`, in closed form, and can be
    differentiated once more with respect to all tensors.
    """
    scale = 2 / box_size
    plane_points = project_points(points * scale, plane_layout)
    gradient = triplane_sample_points_gradient(grad_features, planes, plane_points)
    axes = PLANE_AXES[plane_layout]
    along = [
        sum(
            gradient[:, plane, :, side]
            for plane in range(3)
            for side in range(2)
            if axes[plane][side] == axis
        )
        for axis in range(3)
    ]
    return torch.stack(along, dim=-1) * scale


def find_plane_layout(axes: Sequence[tuple[int, int]]) -> PlaneLayout | None:
    """Return the layout whose planes have these (horizontal, vertical) axes, or None."""
    for layout, known in PLANE_AXES.items():
        if tuple(axes) == known:
            return layout
    return None


@dataclass
class TriPlaneField:
    """Texture and shape planes with a decoder.

    Args:
        decoder: Features to colour and distances, or to colour and density.
        texture_planes: [B, 3, C, P, P].
        shape_planes: [B, 3, C, P, P].
        box_size: Side of the cube that the planes span, in world units.
        background: Features of the background, [B, C] in 0..1, or None.
    """

    decoder: SDFDecoder | DensityDecoder
    texture_planes: Tensor
    shape_planes: Tensor
    box_size: float
    plane_layout: PlaneLayout
    background: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Device of the planes."""
        return self.shape_planes.device

    def plane_features(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[Tensor, Tensor]:  # texture [B, N, C], shape [B, N, C]
        """Return texture and shape features, averaged over the three planes."""
        texture_features = self.texture_features(points)
        if self.shape_planes is self.texture_planes:
            return texture_features, texture_features
        return texture_features, self.shape_features(points)

    def texture_features(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, C]
        """Return texture features, averaged over the three planes."""
        return look_up_planes(self.texture_planes, points, self.box_size, self.plane_layout)

    def shape_features(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, C]
        """Return shape features, averaged over the three planes."""
        return look_up_planes(self.shape_planes, points, self.box_size, self.plane_layout)

    def decode(
        self,
        texture_features: Tensor,  # [B, N, C]
        shape_features: Tensor,  # [B, N, C]
    ) -> FieldSamples:
        """Decode plane features to colour and distances."""
        sdf, class_sdf = self.decoder.distances(shape_features)
        return FieldSamples(self.decoder.colors(texture_features), sdf, class_sdf)

    def sample(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> FieldSamples:
        """Return features and all distances at world points."""
        return self.decode(*self.plane_features(points))

    def sdf(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, 1]
        """Return only the global distance."""
        return self.decoder.sdf(self.shape_features(points))

    def density(
        self,
        sdf: Tensor,  # [...]
    ) -> Tensor:  # [...], per world unit
        """Convert distances to volume density with the decoder's beta."""
        return self.decoder.density(sdf)

    def sdf_and_gradient(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[Tensor, Tensor]:  # sdf [B, N, 1], gradient [B, N, 3]
        """See `AnalyticField`."""
        features = self.shape_features(points)
        return self.decoder.sdf(features), self._gradient_at(points, features)

    def sample_with_gradient(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[FieldSamples, Tensor]:  # and gradient [B, N, 3]
        """See `AnalyticField`."""
        texture_features, shape_features = self.plane_features(points)
        gradient = self._gradient_at(points, shape_features)
        return self.decode(texture_features, shape_features), gradient

    def _gradient_at(
        self,
        points: Tensor,  # [B, N, 3]
        shape_features: Tensor,  # [B, N, C], at the points
    ) -> Tensor:  # [B, N, 3]
        return self.pull_back(self.decoder.sdf_gradient(shape_features), points)

    def pull_back(
        self,
        grad_features: Tensor,  # [B, N, C], at the shape features
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, 3]
        """Return the gradient at points; see `pull_back_to_points`."""
        place = self.box_size, self.plane_layout
        return pull_back_to_points(grad_features, self.shape_planes, points, *place)


def without_classes(field: TriPlaneField) -> TriPlaneField:
    """Return a field that does not evaluate classes: its samples have no class distances."""
    return replace(field, decoder=_ClasslessDecoder(field.decoder))


@dataclass(frozen=True)
class _ClasslessDecoder:
    """A decoder of colours and the global distance only."""

    decoder: SDFDecoder | DensityDecoder

    def __getattr__(self, name: str) -> Any:
        if name == "decoder":  # Not set yet: copying does not call `__init__`.
            raise AttributeError(name)
        return getattr(self.decoder, name)

    def distances(
        self,
        shape_features: Tensor,  # [B, N, C]
    ) -> tuple[Tensor, Tensor]:  # sdf [B, N, 1], class_sdf [B, N, 0]
        """Return only the global distance."""
        sdf = self.decoder.sdf(shape_features)
        return sdf, sdf[..., :0]


@dataclass(frozen=True)
class Corners:
    """The twelve pixels around points on three planes, and their weights in the mean.

    Args:
        index: Rows of a table, [M, 12], int32.
        weights: [M, 12]; zero for pixels outside the planes.
    """

    index: Tensor
    weights: Tensor

    def take(self, chosen: Tensor) -> "Corners":  # [M'] -> of M' points
        """Return the corners of some of the points."""
        return Corners(self.index.index_select(0, chosen), self.weights.index_select(0, chosen))


def make_table(
    planes: Tensor,  # [B, 3, C, P, P]
) -> Tensor:  # [B * 3 * (P + 2)^2, C]
    """Return planes as a table with one row of features per pixel, and zeros around each plane."""
    rows = F.pad(planes.permute(0, 1, 3, 4, 2), (0, 0, 1, 1, 1, 1))
    return rows.reshape(-1, planes.shape[2])


def find_corners(
    points: Tensor,  # [B, N, 3], -1..1 inside the planes
    plane_axes: Sequence[tuple[int, int]],  # (horizontal, vertical) of each plane
    side: int,
) -> Corners:  # of B * N points
    """Return the corners of points in a table from `make_table` of planes with side P.

    Args:
        points: Coordinates in units of half the plane's side.
        plane_axes: See `mate3d.rendering.triplane`.
    """
    padded = side + 2
    position = points.movedim(-1, 0).contiguous() * (side / 2) + (side / 2 + 0.5)
    position.clamp_(0, side + 1)  # Beyond the zeros there are more.
    low = position.floor().clamp_(max=side)
    share = position - low
    third = share / 3
    low = low.int().clamp_(0, side)  # Conversion turns nan into any number.
    first = torch.arange(len(points), dtype=torch.int32, device=points.device)[:, None]
    index, weights = (x.new_empty(12, *points.shape[:2]) for x in (low, points))
    for plane, (x, y) in enumerate(plane_axes):
        corner = low[y] * padded + low[x] + (3 * first + plane) * padded**2
        for place, offset in enumerate((0, 1, padded, padded + 1), start=4 * plane):
            torch.add(corner, offset, out=index[place])
        here, right, below, both = weights[4 * plane : 4 * plane + 4]
        torch.mul(share[x], third[y], out=both)
        torch.sub(third[x], both, out=right)
        torch.sub(third[y], both, out=below)
        torch.sub(1 / 3 - third[x], below, out=here)
    return Corners(index.flatten(1).t().contiguous(), weights.flatten(1).t().contiguous())


def look_up(
    table: Tensor,  # [rows, C]
    corners: Corners,
) -> Tensor:  # [M, C]
    """Return the mean of bilinear look-ups in three planes; zero outside."""
    return F.embedding_bag(
        corners.index, table, mode="sum", per_sample_weights=corners.weights.to(table.dtype)
    )


class TriPlaneProbe(FieldProbe):
    """Looks up shape features once per point, and texture features only where they contribute.

    Args:
        field: Its planes must not change while the probe is in use.
        with_corners: Also compute each point's pixel corners only once and keep them. None does so
            on a CPU only: on a GPU, one kernel recomputes them faster than it could read them.
    """

    def __init__(self, field: TriPlaneField, *, with_corners: bool | None = None):
        self.field = field
        is_cpu = field.device.type == "cpu"
        self._with_corners = is_cpu if with_corners is None else with_corners
        prepare = make_table if self._with_corners else _with_channels_last
        self._shape_table = prepare(field.shape_planes)
        self._has_one_table = field.texture_planes is field.shape_planes
        self._texture_table = (
            self._shape_table if self._has_one_table else prepare(field.texture_planes)
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
            padded, is_chosen = pad_chosen(points, chosen)
            texture_features = self._look_up(self._texture_table, padded, None)
            texture_features = texture_features[is_chosen.flatten()]
        colors = self.field.decoder.colors(texture_features)
        if not with_classes:
            return colors, colors.new_empty(len(colors), 0)
        return colors, self.field.decoder.class_distances(shape_features)

    def class_distances(self, state: tuple[Corners | None, Tensor]) -> Tensor:  # [B * N, K]
        """Return the class distances at all points passed to `begin`."""
        return self.field.decoder.class_distances(state[1])

    def _find_corners(self, points: Tensor) -> Corners:
        field = self.field
        axes, side = PLANE_AXES[field.plane_layout], field.shape_planes.shape[-1]
        return find_corners(points * (2 / field.box_size), axes, side)

    def _look_up(
        self,
        table: Tensor,
        points: Tensor,  # [B, N, 3]
        corners: Corners | None,
    ) -> Tensor:  # [B * N, C]
        if corners is not None:
            return look_up(table, corners)
        field = self.field
        features = look_up_planes(table, points, field.box_size, field.plane_layout)
        return features.flatten(0, 1)


def _with_channels_last(planes: Tensor) -> Tensor:  # [B, 3, C, P, P], as passed
    return planes.movedim(2, -1).contiguous().movedim(-1, 2)


@open_probe.register
def _(field: TriPlaneField) -> FieldProbe:
    return TriPlaneProbe(field)
