"""Bilinear look-up in three feature planes, differentiable twice.

PyTorch's `grid_sample` has no second derivative and reads a channel at a time. Here a plane is a
table with one row of features per pixel, so that a look-up is a weighted sum of rows (an embedding
bag), which is faster too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from torch_utils.ops._dispatch import Implementation, wants_reference

# Points per piece on a CPU; the time hardly changes between 4096 and 16384.
CHUNK_POINTS = 16384


def triplane_sample(
    planes: Tensor,  # [B, 3, C, H, W]
    plane_points: Tensor,  # [B, 3, N, 2]
    *,
    reduce: Literal["mean", "none"] = "mean",
    impl: Implementation = "auto",
) -> Tensor:  # [B, N, C], or [B, 3, N, C] if reduce is "none"
    """Look up features at points projected on three planes.

    Values between the pixel centres are bilinear, values outside the planes zero. Both arguments
    receive exact first and second derivatives; only the gradients that are asked for are computed.

    Args:
        planes: Feature planes.
        plane_points: (horizontal, vertical) position of each point on each plane; -1 and 1 are
            the outer edges of the border pixels.
        reduce: "mean" averages the three planes.
        impl: "reference" forces `triplane_sample_reference`.
    """
    _check_shapes(planes, plane_points)
    batch, _, _, height, width = planes.shape
    if wants_reference(impl):
        return triplane_sample_reference(planes, plane_points, reduce=reduce)
    grid = _Grid(height, width, with_mean=reduce == "mean")
    features = _look_up(_as_table(planes), plane_points.transpose(1, 2), grid)
    if reduce == "mean":
        return features.unflatten(0, (batch, -1))
    return features.unflatten(0, (batch, -1, 3)).transpose(1, 2)


def triplane_sample_points_gradient(
    grad_features: Tensor,  # [B, N, C], or [B, 3, N, C] if reduce is "none"
    planes: Tensor,  # [B, 3, C, H, W]
    plane_points: Tensor,  # [B, 3, N, 2]
    *,
    reduce: Literal["mean", "none"] = "mean",
) -> Tensor:  # [B, 3, N, 2]
    """Pull the gradient of features back to the points where `triplane_sample` looked them up.

    That is what autograd computes for `plane_points`, without a look-up of the features first:
    the transposed Jacobian of the look-up times `grad_features`. All three tensors receive exact
    gradients; those of the gradients are not available.

    Args:
        grad_features: Gradient of a scalar with respect to the features.
        planes: Feature planes.
        plane_points: Positions as in `triplane_sample`.
        reduce: The same as for the look-up.
    """
    batch, _, channels, height, width = planes.shape
    _check_shapes(planes, plane_points)
    num_points = plane_points.shape[2]
    planes_kept = () if reduce == "mean" else (3,)
    expected = (batch, *planes_kept, num_points, channels)
    assert grad_features.shape == expected, (grad_features.shape, expected)
    if reduce == "none":
        grad_features = grad_features.transpose(1, 2)
    grad_rows = grad_features.reshape(-1, channels)
    grid = _Grid(height, width, with_mean=reduce == "mean")
    grad_points = _PointGradient.apply(
        grad_rows, _as_table(planes), plane_points.transpose(1, 2), grid
    )
    return grad_points.transpose(1, 2)


def triplane_sample_reference(
    planes: Tensor,  # [B, 3, C, H, W]
    plane_points: Tensor,  # [B, 3, N, 2]
    *,
    reduce: Literal["mean", "none"] = "mean",
) -> Tensor:  # [B, N, C], or [B, 3, N, C] if reduce is "none"
    """Compute `triplane_sample` by one gather for each of the four pixels around a point."""
    height, width = planes.shape[-2:]
    size = torch.tensor([width, height], dtype=planes.dtype, device=planes.device)
    pixels = ((plane_points + 1) * size - 1) / 2
    corner = pixels.detach().floor()
    fraction = pixels - corner
    table = planes.flatten(3).transpose(2, 3)  # [B, 3, H * W, C]
    features = torch.zeros_like(table[:, :, :1])
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = corner[..., 0] + dx, corner[..., 1] + dy
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = (row * width + column).where(inside, 0).long()
            weight_x = fraction[..., 0] if dx else 1 - fraction[..., 0]
            weight_y = fraction[..., 1] if dy else 1 - fraction[..., 1]
            values = table.gather(2, index[..., None].expand(-1, -1, -1, table.shape[-1]))
            features = features + values * (weight_x * weight_y * inside)[..., None]
    return features.mean(1) if reduce == "mean" else features


def _check_shapes(planes: Tensor, plane_points: Tensor) -> None:
    assert planes.ndim == 5 and planes.shape[1] == 3, planes.shape
    batch, num_points = len(planes), plane_points.shape[2]
    assert plane_points.shape == (batch, 3, num_points, 2), (plane_points.shape, planes.shape)


def _as_table(planes: Tensor) -> Tensor:  # [B, 3, C, H, W] -> [B * 3 * H * W, C]
    return planes.permute(0, 1, 3, 4, 2).reshape(-1, planes.shape[2])


@dataclass(frozen=True)
class _Grid:
    """Size of the planes in pixels, and whether a point's three planes are averaged."""

    height: int
    width: int
    with_mean: bool


class _Corners:
    """The four pixels around each point on each plane, and how their weights move with the point.

    The weight of a corner is the product of one factor for its row and one for its column, each
    linear in the position. Corners outside the plane have zero factors.
    """

    def __init__(self, points: Tensor, first_rows: Tensor, grid: _Grid):  # [R, 3, 2], [R, 3]
        scale = 1 / 3 if grid.with_mean else 1
        column, self.factor_x, self.slope_x = _axis(points[..., 0], grid.width, scale)
        row, self.factor_y, self.slope_y = _axis(points[..., 1], grid.height, 1)
        row = [first_rows + r * grid.width for r in row]
        self.bag_size = 12 if grid.with_mean else 4
        self.index = self._bags([r + c for r in row for c in column])

    def weights(self) -> Tensor:  # [bags, bag_size]
        return self._bags(_products(self.factor_y, self.factor_x))

    def slopes(self) -> tuple[Tensor, Tensor]:  # each [bags, bag_size]
        """Return the derivatives of the weights along x and along y."""
        slopes_x = self._bags(_products(self.factor_y, self.slope_x))
        return slopes_x, self._bags(_products(self.slope_y, self.factor_x))

    def weights_along(self, direction: Tensor) -> Tensor:  # [R, 3, 2] -> [bags, bag_size]
        """Return the change of the weights for a displacement of the points."""
        slopes_x = _products(self.factor_y, self.slope_x)
        slopes_y = _products(self.slope_y, self.factor_x)
        along_x, along_y = direction.unbind(-1)
        pairs = zip(slopes_x, slopes_y, strict=True)
        return self._bags([(along_x * x).addcmul_(along_y, y) for x, y in pairs])

    def mixed_derivatives(self) -> Tensor:  # [bags, bag_size]
        """Return the second derivatives of the weights, once along x and once along y."""
        return self._bags(_products(self.slope_y, self.slope_x))

    def _bags(self, corners: list[Tensor]) -> Tensor:
        return torch.stack(corners, dim=-1).view(-1, self.bag_size)


def _axis(
    position: Tensor, size: int, scale: float
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the pixel indices on both sides of positions, their factors and the slopes of those.

    Structure-of-arrays on purpose: operations on a last dimension of 2 are slow.
    """
    pixel = position * (size / 2) + (size / 2 - 0.5)
    low = pixel.floor()
    fraction = pixel - low
    low_inside = ((low >= 0) & (low < size)).to(pixel) * scale
    high_inside = ((low >= -1) & (low < size - 1)).to(pixel) * scale
    low = low.long()
    index = [low.clamp(0, size - 1), (low + 1).clamp_(0, size - 1)]
    factor = [(1 - fraction) * low_inside, fraction * high_inside]
    return index, factor, [low_inside * (-size / 2), high_inside * (size / 2)]


def _products(rows: list[Tensor], columns: list[Tensor]) -> list[Tensor]:
    return [row * column for row in rows for column in columns]


def _chunks(points: Tensor, grid: _Grid) -> Iterator[tuple[slice, slice, _Corners]]:
    """Walk over the points in pieces whose temporaries stay in the processor's cache.

    Yields:
        The points and the bags of a piece, and the corners of the points.
    """
    num_images, per_image = points.shape[:2]
    points = points.reshape(-1, 3, 2)
    plane_rows = grid.height * grid.width
    first_rows = torch.arange(num_images * 3, device=points.device).view(-1, 1, 3) * plane_rows
    first_rows = first_rows.expand(-1, per_image, -1).reshape(-1, 3)
    step = CHUNK_POINTS if points.device.type == "cpu" else max(len(points), 1)
    bags = 1 if grid.with_mean else 3
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        yield (
            part,
            slice(start * bags, (start + step) * bags),
            _Corners(points[part], first_rows[part], grid),
        )


def _look_up(table: Tensor, points: Tensor, grid: _Grid) -> Tensor:
    # [B * 3 * H * W, C], [B, N, 3, 2] -> [B * N, C] or [B * N * 3, C]
    return _Values.apply(_TableLink.apply(table, (points,), grid), table, points, grid)


def _weighted_rows(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:  # [bags, C]
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weights)


def _scatter_rows(table: Tensor, rows: Tensor, index: Tensor, weights: Tensor) -> None:
    """Add each weighted row of `rows` [bags, C] to the table rows that `index` names.

    Sorting the indices turns the scatter into gathers, several times faster than `index_add_`.
    """
    key, order = index.flatten().sort()
    key, counts = key.unique_consecutive(return_counts=True)
    source = order.div(index.shape[1], rounding_mode="floor")
    sums = F.embedding_bag(
        source,
        rows,
        counts.cumsum(0) - counts,
        mode="sum",
        per_sample_weights=weights.flatten().index_select(0, order),
    )
    table.index_add_(0, key, sums)


def _dot_rows(table: Tensor, index: Tensor, weights: Tensor, rows: Tensor) -> Tensor:  # [R, 3]
    """Return the dot product of each plane's weighted table rows with its bag's row of `rows`."""
    planes = _weighted_rows(table, index.view(-1, 4), weights.view(-1, 4))
    planes = planes.view(len(rows), -1, table.shape[1])
    return torch.bmm(planes, rows[..., None]).view(-1, 3)


class _TableLink(Function):
    """Zero in value; its gradient is the gradient of a look-up with respect to the table.

    Autograd runs this node only if the gradient of the table is asked for. As a part of `_Values`
    the expensive scatter would also run for the gradient of the points (normals, eikonal loss).
    For the same reason the points are held in a tuple: the node must not lead to them.
    """

    @staticmethod
    def forward(ctx, table, held_points, grid):
        ctx.held_points, ctx.grid, ctx.num_rows = held_points, grid, len(table)
        (points,) = held_points
        num_bags = points.shape[:2].numel() * (1 if grid.with_mean else 3)
        return table.new_zeros(1).expand(num_bags, table.shape[1])

    @staticmethod
    def backward(ctx, grad):
        (points,) = ctx.held_points
        return _TableGradient.apply(grad, points, ctx.grid, ctx.num_rows), None, None


class _Values(Function):
    """Look-up in the table; the gradient of the table goes through `link`."""

    @staticmethod
    def forward(ctx, link, table, points, grid):
        ctx.save_for_backward(table, points)
        ctx.grid = grid
        values = torch.empty_like(link, memory_format=torch.contiguous_format)
        for _, bags, corners in _chunks(points, grid):
            values[bags] = _weighted_rows(table, corners.index, corners.weights())
        return values

    @staticmethod
    def backward(ctx, grad):
        table, points = ctx.saved_tensors
        grad_points = None
        if ctx.needs_input_grad[2]:
            grad_points = _PointGradient.apply(grad, table, points, ctx.grid)
        return grad, None, grad_points, None


class _TableGradient(Function):
    """Gradient of a look-up with respect to the table: a scatter with the same weights."""

    @staticmethod
    def forward(ctx, grad, points, grid, num_rows):
        ctx.save_for_backward(grad, points)
        ctx.grid = grid
        grad = grad.contiguous()
        grad_table = grad.new_zeros(num_rows, grad.shape[1])
        for _, bags, corners in _chunks(points, grid):
            _scatter_rows(grad_table, grad[bags], corners.index, corners.weights())
        return grad_table

    @staticmethod
    def backward(ctx, grad_table):
        grad, points = ctx.saved_tensors
        grad_grad = grad_points = None
        if ctx.needs_input_grad[0]:
            grad_grad = _look_up(grad_table, points, ctx.grid)
        if ctx.needs_input_grad[1]:
            grad_points = _PointGradient.apply(grad, grad_table, points, ctx.grid)
        return grad_grad, grad_points, None, None


class _PointGradient(Function):
    """Gradient of a look-up with respect to the points; differentiable once more."""

    @staticmethod
    def forward(ctx, grad, table, points, grid):
        ctx.save_for_backward(grad, table, points)
        ctx.grid = grid
        grad = grad.contiguous()
        grad_points = torch.empty_like(points, memory_format=torch.contiguous_format)
        for part, bags, corners in _chunks(points, grid):
            axes = [_dot_rows(table, corners.index, axis, grad[bags]) for axis in corners.slopes()]
            grad_points.view(-1, 3, 2)[part] = torch.stack(axes, dim=-1)
        return grad_points

    @staticmethod
    @once_differentiable
    def backward(ctx, direction):
        grad, table, points = ctx.saved_tensors
        needs_grad, needs_table, needs_points, _ = ctx.needs_input_grad
        grad, direction = grad.contiguous(), direction.reshape(-1, 3, 2)
        grad_points = None
        grad_grad = torch.empty_like(grad) if needs_grad else None
        grad_table = torch.zeros_like(table) if needs_table else None
        mixed = points.new_empty(len(direction), 3) if needs_points else None
        for part, bags, corners in _chunks(points, ctx.grid):
            weights = corners.weights_along(direction[part])
            if needs_grad:
                grad_grad[bags] = _weighted_rows(table, corners.index, weights)
            if needs_table:
                _scatter_rows(grad_table, grad[bags], corners.index, weights)
            if needs_points:
                derivatives = corners.mixed_derivatives()
                mixed[part] = _dot_rows(table, corners.index, derivatives, grad[bags])
        # The weights are linear along each axis, so that only the mixed derivative remains.
        grad_points = (
            (direction.flip(-1) * mixed[..., None]).view_as(points) if needs_points else None
        )
        return grad_grad, grad_table, grad_points, None
