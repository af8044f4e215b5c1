"""Bilinear look-up in three feature planes, differentiable twice.

PyTorch's `grid_sample` has no second derivative and reads a channel at a time. Here a plane is a
table with one row of features per pixel, so that a look-up is a weighted sum of rows (an embedding
bag), which is faster too.

Determinism: values and gradients with respect to points repeat bit for bit. On CUDA the kernel for
the gradient with respect to planes adds with atomics, in an order that changes from call to call;
after `torch.use_deterministic_algorithms(True)` a slower sorted sum takes its place.
"""

from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

import torch_utils.ops._triplane_pytorch as _triplane_pytorch
from torch_utils.ops._dispatch import (
    Implementation,
    wants_library,
    wants_reference,
)

Reduction = Literal["mean", "none"]


def triplane_sample(
    planes: Tensor,  # [B, 3, C, H, W]
    plane_points: Tensor,  # [B, 3, N, 2]
    *,
    reduce: Reduction = "mean",
    impl: Implementation = "auto",
) -> Tensor:  # [B, N, C], or [B, 3, N, C] if reduce is "none"
    """Look up features at points projected on three planes.

    Values between the pixel centres are bilinear, values outside the planes zero. Both arguments
    receive exact first and second derivatives; only the gradients that are asked for are computed.
    The result has the type of the planes, under autocast too; positions count as float32 (float64
    with planes of that type), and so do sums over planes of half types.

    Args:
        planes: Feature planes: float64, float32, float16 or bfloat16.
        plane_points: (horizontal, vertical) position of each point on each plane; -1 and 1 are
            the outer edges of the border pixels.
        reduce: "mean" averages the three planes.
        impl: "pytorch" forces PyTorch's operations, "reference" `triplane_sample_reference`.

    Raises:
        ValueError: If shapes or `reduce` are not as said.
    """
    mean = _read_inputs(planes, plane_points, reduce)
    if wants_reference(impl):
        return triplane_sample_reference(planes, plane_points, reduce=reduce)
    ops = torch.ops.mate3d if wants_library(planes, impl) else _triplane_pytorch
    table, points = _as_table(planes), _as_positions(plane_points, planes)
    if torch.compiler.is_compiling():
        return ops.triplane_sample(table, points, None, mean)
    link = _TableLink.apply(table, (points,), ops, mean)
    return _Values.apply(link, table, points, ops, mean)


def triplane_sample_points_gradient(
    grad_features: Tensor,  # [B, N, C], or [B, 3, N, C] if reduce is "none"
    planes: Tensor,  # [B, 3, C, H, W]
    plane_points: Tensor,  # [B, 3, N, 2]
    *,
    reduce: Reduction = "mean",
    impl: Implementation = "auto",
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
        impl: "pytorch" forces PyTorch's operations.

    Raises:
        ValueError: If shapes or `reduce` are not as said.
    """
    mean = _read_inputs(planes, plane_points, reduce)
    _check_features(grad_features, planes, plane_points, mean)
    ops = torch.ops.mate3d if wants_library(planes, impl) else _triplane_pytorch
    table, points = _as_table(planes), _as_positions(plane_points, planes)
    grad_features = grad_features.to(planes.dtype)
    if torch.compiler.is_compiling():
        return ops.triplane_sample_points_grad(grad_features, table, points, None, mean)
    return _PointGradient.apply(grad_features, table, points, ops, mean)


def triplane_sample_reference(
    planes: Tensor,  # [B, 3, C, H, W]
    plane_points: Tensor,  # [B, 3, N, 2]
    *,
    reduce: Reduction = "mean",
) -> Tensor:  # [B, N, C], or [B, 3, N, C] if reduce is "none"
    """Compute `triplane_sample` by one gather for each of the four pixels around a point."""
    height, width = planes.shape[-2:]
    plane_points = _as_positions(plane_points, planes)
    size = plane_points.new_tensor([width, height])
    pixels = ((plane_points + 1) * size - 1) / 2
    corner = pixels.detach().floor()
    fraction = pixels - corner
    table = planes.flatten(3).transpose(2, 3).to(plane_points.dtype)  # [B, 3, H * W, C]
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
    features = features.mean(1) if reduce == "mean" else features
    return features.to(planes.dtype)


def _read_inputs(planes: Tensor, plane_points: Tensor, reduce: str) -> bool:
    """Check the inputs; return whether the planes are averaged."""
    if reduce not in ("mean", "none"):
        raise ValueError(f"reduce is {reduce!r}; allowed are 'mean' and 'none'")
    if planes.ndim != 5 or planes.shape[1] != 3:
        raise ValueError(f"shape of the planes is {list(planes.shape)}; it must be [B, 3, C, H, W]")
    batch = len(planes)
    shape = plane_points.shape
    if plane_points.ndim != 4 or shape[:2] != (batch, 3) or shape[3] != 2:
        raise ValueError(f"shape of the points is {list(shape)}; it must be [{batch}, 3, N, 2]")
    return reduce == "mean"


def _check_features(
    grad_features: Tensor, planes: Tensor, plane_points: Tensor, mean: bool
) -> None:
    expected = [len(planes), *([] if mean else [3]), plane_points.shape[2], planes.shape[2]]
    if list(grad_features.shape) != expected:
        raise ValueError(
            f"shape of the features' gradient is {list(grad_features.shape)}; it must be {expected}"
        )


def _as_table(planes: Tensor) -> Tensor:  # [B, 3, C, H, W] -> [B, 3, H, W, C]
    """Return the planes with the channels last, copied unless the channels are neighbours."""
    table = planes.permute(0, 1, 3, 4, 2)
    # The kernels find their way among rows that lie apart, as in a channels-last image.
    is_fine = table.stride(-1) == 1 if table.is_cuda else table.is_contiguous()
    return table if is_fine else table.contiguous()


def _as_positions(plane_points: Tensor, planes: Tensor) -> Tensor:
    return plane_points.to(_triplane_pytorch.sum_dtype(planes.dtype))


# The functions below take the namespace whose three operations compute: the kernels', or PyTorch's.
_Operations = ModuleType | Any


class _TableLink(Function):
    """Zero in value; its gradient is the gradient of a look-up with respect to the table.

    Autograd runs this node only if the gradient of the table is asked for. As a part of `_Values`
    the expensive scatter would also run for the gradient of the points (normals, eikonal loss).
    For the same reason the points are held in a tuple: the node must not lead to them.
    """

    @staticmethod
    def forward(ctx, table, held_points, ops: _Operations, mean):
        ctx.held_points, ctx.ops, ctx.mean = held_points, ops, mean
        ctx.size, ctx.dtype = table.shape[2:4], table.dtype
        num_points = held_points[0].shape[2]
        shape = (len(table), num_points) if mean else (len(table), 3, num_points)
        return table.new_zeros(1).expand(*shape, table.shape[4])

    @staticmethod
    def backward(ctx, grad):
        (points,) = ctx.held_points
        grad_table = _TableGradient.apply(grad, points, ctx.ops, ctx.size, ctx.mean)
        return grad_table.to(ctx.dtype), None, None, None


class _Values(Function):
    """Look-up in the table; the gradient of the table goes through `link`."""

    @staticmethod
    def forward(ctx, link, table, points, ops: _Operations, mean):
        ctx.save_for_backward(table, points)
        ctx.ops, ctx.mean = ops, mean
        return ops.triplane_sample(table, points, None, mean)

    @staticmethod
    def backward(ctx, grad):
        table, points = ctx.saved_tensors
        grad_points = None
        if ctx.needs_input_grad[2]:
            grad_points = _PointGradient.apply(grad, table, points, ctx.ops, ctx.mean)
        return grad, None, grad_points, None, None


class _TableGradient(Function):
    """Gradient of a look-up with respect to the table: a scatter with the same weights."""

    @staticmethod
    def forward(ctx, grad, points, ops: _Operations, size, mean):
        ctx.save_for_backward(grad, points)
        ctx.ops, ctx.mean = ops, mean
        return ops.triplane_sample_table_grad(grad, points, None, *size, mean)

    @staticmethod
    def backward(ctx, grad_table):
        grad, points = ctx.saved_tensors
        grad_grad = grad_points = None
        if ctx.needs_input_grad[0]:
            link = _TableLink.apply(grad_table, (points,), ctx.ops, ctx.mean)
            grad_grad = _Values.apply(link, grad_table, points, ctx.ops, ctx.mean).to(grad.dtype)
        if ctx.needs_input_grad[1]:
            # Sums over half types are wider than the features.
            grad = grad.to(grad_table.dtype)
            grad_points = _PointGradient.apply(grad, grad_table, points, ctx.ops, ctx.mean)
        return grad_grad, grad_points, None, None, None


class _PointGradient(Function):
    """Gradient of a look-up with respect to the points; differentiable once more."""

    @staticmethod
    def forward(ctx, grad, table, points, ops: _Operations, mean):
        ctx.save_for_backward(grad, table, points)
        ctx.ops, ctx.mean = ops, mean
        return ops.triplane_sample_points_grad(grad, table, points, None, mean)

    @staticmethod
    @once_differentiable
    def backward(ctx, direction):
        grad, table, points = ctx.saved_tensors
        needs_grad, needs_table, needs_points, _, _ = ctx.needs_input_grad
        ops, mean = ctx.ops, ctx.mean
        grad_grad = grad_table = grad_points = None
        if needs_grad:
            grad_grad = ops.triplane_sample(table, points, direction, mean)
        if needs_table:
            size = table.shape[2:4]
            grad_table = ops.triplane_sample_table_grad(grad, points, direction, *size, mean)
            grad_table = grad_table.to(table.dtype)
        if needs_points:
            grad_points = ops.triplane_sample_points_grad(grad, table, points, direction, mean)
        return grad_grad, grad_table, grad_points, None, None
