"""Bilinear look-up in three feature planes, differentiable twice.

PyTorch's `grid_sample` has no second derivative and reads a channel at a time. Here a plane is a
table with one row of features per pixel, so that a look-up is a weighted sum of rows (an embedding
bag), which is faster too.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from torch_utils.ops._dispatch import Implementation, wants_reference


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
    batch, num_planes, channels, height, width = planes.shape
    assert num_planes == 3, planes.shape
    assert plane_points.shape == (batch, 3, plane_points.shape[2], 2), plane_points.shape
    if wants_reference(impl):
        return triplane_sample_reference(planes, plane_points, reduce=reduce)
    table = planes.permute(0, 1, 3, 4, 2).reshape(-1, channels)
    grid = _Grid(height, width, with_mean=reduce == "mean")
    features = _look_up(table, plane_points.transpose(1, 2), grid)
    if reduce == "mean":
        return features.unflatten(0, (batch, -1))
    return features.unflatten(0, (batch, -1, 3)).transpose(1, 2)


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

    def __init__(self, points: Tensor, grid: _Grid):  # [B, N, 3, 2]
        size = torch.tensor([grid.width, grid.height], device=points.device)
        pixels = torch.addcmul(size / 2 - 0.5, points, size / 2)
        low = pixels.floor()
        fraction = pixels - low
        corner = torch.stack([low, low + 1], dim=-1)  # [B, N, 3, 2 axes, 2 corners]
        inside = (corner >= 0) & (corner < size[:, None])
        column, row = corner.long().clamp_(min=0).minimum(size[:, None] - 1).unbind(3)

        num_images = len(points)
        first_row = torch.arange(num_images * 3, device=points.device) * grid.height
        row = row + first_row.view(num_images, 1, 3, 1)
        per_bag = 12 if grid.with_mean else 4
        self.shape = (*points.shape[:3], 2, 2)
        self.index = (row[..., :, None] * grid.width + column[..., None, :]).view(-1, per_bag)

        scale = torch.ones(2, 1, dtype=points.dtype, device=points.device)
        if grid.with_mean:
            scale[0] = 1 / 3
        scale = inside * scale
        factor = torch.stack([1 - fraction, fraction], dim=-1) * scale
        slope = torch.stack([-size / 2, size / 2], dim=-1) * scale
        self.factor_x, self.factor_y = factor[..., 0, None, :], factor[..., 1, :, None]
        self.slope_x, self.slope_y = slope[..., 0, None, :], slope[..., 1, :, None]

    def weights(self) -> Tensor:  # [R, K]
        return (self.factor_x * self.factor_y).view_as(self.index)

    def weights_along(self, direction: Tensor) -> Tensor:  # [B, N, 3, 2] -> [R, K]
        """Return the change of the weights for a displacement of the points."""
        along_x, along_y = direction[..., None, None].unbind(3)
        change = along_x * self.slope_x * self.factor_y + along_y * self.factor_x * self.slope_y
        return change.reshape(self.index.shape)


def _look_up(table: Tensor, points: Tensor, grid: _Grid) -> Tensor:
    # [B * 3 * H * W, C], [B, N, 3, 2] -> [B * N, C] or [B * N * 3, C]
    return _Values.apply(_TableLink.apply(table, (points,), grid), table, points, grid)


def _weighted_rows(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:  # [R, C]
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weights)


def _scatter_rows(rows: Tensor, index: Tensor, weights: Tensor, num_rows: int) -> Tensor:
    """Add each weighted row of `rows` [R, C] to the table rows that `index` [R, K] names.

    Sorting the indices turns the scatter into gathers, several times faster than `index_add_`.
    """
    key, order = index.flatten().sort()
    counts = torch.bincount(key, minlength=num_rows)
    source = order.div(index.shape[1], rounding_mode="floor")
    return F.embedding_bag(
        source,
        rows.contiguous(),
        counts.cumsum(0) - counts,
        mode="sum",
        per_sample_weights=weights.flatten()[order],
    )


def _dot_rows(rows: Tensor, table: Tensor, index: Tensor) -> Tensor:  # [R, K]
    """Multiply each row of `rows` [R, C] with the table rows that `index` [R, K] names."""
    num_bags, per_bag = index.shape
    bags = torch.arange(num_bags, device=index.device)
    # This is the gradient of an embedding bag with respect to its weights; mode 0 is the sum.
    dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        rows.contiguous(), table, index.flatten(), bags * per_bag, bags.repeat_interleave(per_bag), 0
    )
    return dots.view_as(index)


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
        corners = _Corners(points, grid)
        return _weighted_rows(table, corners.index, corners.weights())

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
        corners = _Corners(points, grid)
        return _scatter_rows(grad, corners.index, corners.weights(), num_rows)

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
        corners = _Corners(points, grid)
        dots = _dot_rows(grad, table, corners.index).view(corners.shape)
        along_x = (dots * corners.slope_x * corners.factor_y).sum((-2, -1))
        along_y = (dots * corners.factor_x * corners.slope_y).sum((-2, -1))
        return torch.stack([along_x, along_y], dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, direction):
        grad, table, points = ctx.saved_tensors
        grad_grad = grad_table = grad_points = None
        corners = _Corners(points, ctx.grid)
        weights = corners.weights_along(direction)
        if ctx.needs_input_grad[0]:
            grad_grad = _weighted_rows(table, corners.index, weights)
        if ctx.needs_input_grad[1]:
            grad_table = _scatter_rows(grad, corners.index, weights, len(table))
        if ctx.needs_input_grad[2]:
            # The weights are linear along each axis, so that only the mixed derivative remains.
            dots = _dot_rows(grad, table, corners.index).view(corners.shape)
            mixed = (dots * corners.slope_x * corners.slope_y).sum((-2, -1))
            grad_points = direction.flip(-1) * mixed[..., None]
        return grad_grad, grad_table, grad_points, None
