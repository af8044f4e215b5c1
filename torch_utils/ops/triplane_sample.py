"""Bilinear look-up in three feature planes, differentiable twice.

PyTorch's `grid_sample` has no second derivative and reads a channel at a time. Here a plane is a
table with one row of features per pixel, so that a look-up is a weighted sum of rows (an embedding
bag), which is faster too.

Determinism: values and gradients with respect to points repeat bit for bit. On CUDA the kernel for
the gradient with respect to planes adds with atomics, in an order that changes from call to call;
after `torch.use_deterministic_algorithms(True)` a slower sorted sum takes its place.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

import torch_utils.ops._triplane_pytorch as _triplane_pytorch
from torch_utils.ops._dispatch import Implementation, wants_library
from torch_utils.ops._library import register


def triplane_sample(
    planes: Tensor,  # [B, 3, C, H, W]
    plane_points: Tensor,  # [B, 3, N, 2]
    *,
    impl: Implementation = "auto",
) -> Tensor:  # [B, N, C]
    """Look up features at points projected on three planes, and average the planes.

    Values between the pixel centres are bilinear, values outside the planes zero. Both arguments
    receive exact first and second derivatives; only the gradients that are asked for are computed.
    The result has the type of the planes, under autocast too; positions count as float32 (float64
    with planes of that type), and so do sums over planes of half types.

    Args:
        planes: Feature planes: float64, float32, float16 or bfloat16.
        plane_points: (horizontal, vertical) position of each point on each plane; -1 and 1 are
            the outer edges of the border pixels.
        impl: "pytorch" forces PyTorch's operations.
    """
    _check_inputs(planes, plane_points)
    ops = torch.ops.mate3d if wants_library(planes, impl) else _triplane_pytorch
    return look_up(_as_table(planes), _as_positions(plane_points, planes), ops)


def look_up(
    table: Tensor,  # [B, 3, H, W, C]
    points: Tensor,  # [B, 3, N, 2]
    ops: Any,
) -> Tensor:  # [B, N, C]
    """Compute `triplane_sample` by operations such as those of `torch.ops.mate3d`."""
    return _Values.apply(_TableLink.apply(table, (points,), ops), table, points, ops)


def triplane_sample_points_gradient(
    grad_features: Tensor,  # [B, N, C]
    planes: Tensor,  # [B, 3, C, H, W]
    plane_points: Tensor,  # [B, 3, N, 2]
    *,
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
        impl: "pytorch" forces PyTorch's operations.
    """
    _check_inputs(planes, plane_points)
    expected = (len(planes), plane_points.shape[2], planes.shape[2])
    assert grad_features.shape == expected, (grad_features.shape, expected)
    ops = torch.ops.mate3d if wants_library(planes, impl) else _triplane_pytorch
    table, points = _as_table(planes), _as_positions(plane_points, planes)
    return _PointGradient.apply(grad_features.to(planes.dtype), table, points, ops)


def _check_inputs(planes: Tensor, plane_points: Tensor) -> None:
    assert planes.ndim == 5 and planes.shape[1] == 3, planes.shape
    expected = (len(planes), 3, *plane_points.shape[2:3], 2)
    assert plane_points.shape == expected, (plane_points.shape, planes.shape)


def _as_table(planes: Tensor) -> Tensor:  # [B, 3, C, H, W] -> [B, 3, H, W, C]
    """Return the planes with the channels last, copied unless the channels are neighbours."""
    table = planes.permute(0, 1, 3, 4, 2)
    # The kernels find their way among rows that lie apart, as in a channels-last image.
    is_fine = table.stride(-1) == 1 if table.is_cuda else table.is_contiguous()
    return table if is_fine else table.contiguous()


def _as_positions(plane_points: Tensor, planes: Tensor) -> Tensor:
    return plane_points.to(_triplane_pytorch.sum_dtype(planes.dtype))


class _TableLink(Function):
    """Zero in value; its gradient is the gradient of a look-up with respect to the table.

    Autograd runs this node only if the gradient of the table is asked for. As a part of `_Values`
    the expensive scatter would also run for the gradient of the points (normals, eikonal loss).
    For the same reason the points are held in a tuple: the node must not lead to them.
    """

    @staticmethod
    def forward(ctx, table, held_points, ops: Any):
        ctx.held_points, ctx.ops, ctx.size, ctx.dtype = (
            held_points,
            ops,
            table.shape[2:4],
            table.dtype,
        )
        return table.new_zeros(1).expand(len(table), held_points[0].shape[2], table.shape[4])

    @staticmethod
    def backward(ctx, grad):
        grad_table = _TableGradient.apply(grad, *ctx.held_points, ctx.ops, ctx.size)
        return grad_table.to(ctx.dtype), None, None


class _Values(Function):
    """Look-up in the table; the gradient of the table goes through `link`."""

    @staticmethod
    def forward(ctx, link, table, points, ops: Any):
        ctx.save_for_backward(table, points)
        ctx.ops = ops
        return ops.triplane_sample(table, points, None)

    @staticmethod
    def backward(ctx, grad):
        grad_points = None
        if ctx.needs_input_grad[2]:
            grad_points = _PointGradient.apply(grad, *ctx.saved_tensors, ctx.ops)
        return grad, None, grad_points, None


class _TableGradient(Function):
    """Gradient of a look-up with respect to the table: a scatter with the same weights."""

    @staticmethod
    def forward(ctx, grad, points, ops: Any, size):
        ctx.save_for_backward(grad, points)
        ctx.ops = ops
        return ops.triplane_sample_table_grad(grad, points, None, *size)

    @staticmethod
    def backward(ctx, grad_table):
        grad, points = ctx.saved_tensors
        grad_grad = grad_points = None
        if ctx.needs_input_grad[0]:
            grad_grad = look_up(grad_table, points, ctx.ops).to(grad.dtype)
        if ctx.needs_input_grad[1]:
            # Sums over half types are wider than the features.
            grad = grad.to(grad_table.dtype)
            grad_points = _PointGradient.apply(grad, grad_table, points, ctx.ops)
        return grad_grad, grad_points, None, None


class _PointGradient(Function):
    """Gradient of a look-up with respect to the points; differentiable once more."""

    @staticmethod
    def forward(ctx, grad, table, points, ops: Any):
        ctx.save_for_backward(grad, table, points)
        ctx.ops = ops
        return ops.triplane_sample_points_grad(grad, table, points, None)

    @staticmethod
    @once_differentiable
    def backward(ctx, direction):
        grad, table, points = ctx.saved_tensors
        ops = ctx.ops
        grad_grad = grad_table = grad_points = None
        if ctx.needs_input_grad[0]:
            grad_grad = ops.triplane_sample(table, points, direction)
        if ctx.needs_input_grad[1]:
            size = table.shape[2:4]
            grad_table = ops.triplane_sample_table_grad(grad, points, direction, *size)
            grad_table = grad_table.to(table.dtype)
        if ctx.needs_input_grad[2]:
            grad_points = ops.triplane_sample_points_grad(grad, table, points, direction)
        return grad_grad, grad_table, grad_points, None


def _fake_table(grad, points, direction, height, width) -> Tensor:
    dtype = _triplane_pytorch.sum_dtype(grad.dtype)
    return grad.new_empty((len(grad), 3, height, width, grad.shape[-1]), dtype=dtype)


# A table is the planes with the channels last. With a direction the weights of the look-up are
# replaced by their change along it.
register(
    "triplane_sample(Tensor table, Tensor points, Tensor? direction) -> Tensor",
    _triplane_pytorch.triplane_sample,
    lambda table, points, _: table.new_empty(len(table), points.shape[2], table.shape[4]),
)
register(
    "triplane_sample_table_grad(Tensor grad, Tensor points, Tensor? direction, "
    "SymInt height, SymInt width) -> Tensor",
    _triplane_pytorch.triplane_sample_table_grad,
    _fake_table,
    deterministic=False,
)
register(
    "triplane_sample_points_grad(Tensor grad, Tensor table, Tensor points, "
    "Tensor? direction) -> Tensor",
    _triplane_pytorch.triplane_sample_points_grad,
    lambda grad, table, points, _: points.new_empty(points.shape),
)
