"""`triplane_sample` and its derivatives as operations of PyTorch's library.

A table is the planes with the channels last. With a `direction` the weights of the look-up are
replaced by their change along it; the derivatives of the three operations are again among them.
"""

from typing import Any

from torch import Tensor

import torch_utils.ops._triplane_pytorch as _triplane_pytorch
from torch_utils.ops._library import Operation, no_third_derivatives


def _fake_features(table, points, direction, mean) -> Tensor:
    batch, num_points, channels = len(table), points.shape[2], table.shape[4]
    shape = (batch, num_points, channels) if mean else (batch, 3, num_points, channels)
    return table.new_empty(shape)


def _fake_table(grad, points, direction, height, width, mean) -> Tensor:
    shape = (len(grad), 3, height, width, grad.shape[-1])
    return grad.new_empty(shape, dtype=_triplane_pytorch.sum_dtype(grad.dtype))


def _fake_points(grad, table, points, direction, mean) -> Tensor:
    return points.new_empty(points.shape)


def _save_features(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.mean = inputs
    ctx.save_for_backward(*tensors)


def _backward_features(ops: Any, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    table, points, direction = ctx.saved_tensors
    grad_table = grad_points = grad_direction = None
    if ctx.needs_input_grad[0]:
        size = table.shape[2:4]
        grad_table = ops.triplane_sample_table_grad(grad, points, direction, *size, ctx.mean)
        grad_table = grad_table.to(table.dtype)
    if ctx.needs_input_grad[1]:
        grad_points = ops.triplane_sample_points_grad(grad, table, points, direction, ctx.mean)
    if ctx.needs_input_grad[2]:
        grad_direction = ops.triplane_sample_points_grad(grad, table, points, None, ctx.mean)
    return grad_table, grad_points, grad_direction, None


def _save_table(ctx: Any, inputs: tuple, output: Tensor) -> None:
    grad, points, direction, _, _, ctx.mean = inputs
    ctx.save_for_backward(grad, points, direction)


def _backward_table(ops: Any, ctx: Any, grad_table: Tensor) -> tuple[Any, ...]:
    grad, points, direction = ctx.saved_tensors
    grad_grad = grad_points = grad_direction = None
    if ctx.needs_input_grad[0]:
        grad_grad = ops.triplane_sample(grad_table, points, direction, ctx.mean).to(grad.dtype)
    # The sums of half types are wider than the features.
    grad = grad.to(grad_table.dtype)
    if ctx.needs_input_grad[1]:
        grad_points = ops.triplane_sample_points_grad(grad, grad_table, points, direction, ctx.mean)
    if ctx.needs_input_grad[2]:
        grad_direction = ops.triplane_sample_points_grad(grad, grad_table, points, None, ctx.mean)
    return grad_grad, grad_points, grad_direction, None, None, None


def _save_points(ctx: Any, inputs: tuple, output: Tensor) -> None:
    grad, table, points, direction, ctx.mean = inputs
    ctx.save_for_backward(grad, table, points)
    ctx.is_second = direction is not None


def _backward_points(ops: Any, ctx: Any, direction: Tensor) -> tuple[Any, ...]:
    if ctx.is_second:
        return no_third_derivatives(ops, ctx, direction)
    grad, table, points = ctx.saved_tensors
    grad_grad = grad_table = grad_points = None
    if ctx.needs_input_grad[0]:
        grad_grad = ops.triplane_sample(table, points, direction, ctx.mean)
    if ctx.needs_input_grad[1]:
        size = table.shape[2:4]
        grad_table = ops.triplane_sample_table_grad(grad, points, direction, *size, ctx.mean)
        grad_table = grad_table.to(table.dtype)
    if ctx.needs_input_grad[2]:
        grad_points = ops.triplane_sample_points_grad(grad, table, points, direction, ctx.mean)
    return grad_grad, grad_table, grad_points, None, None


OPERATIONS = (
    Operation(
        "triplane_sample(Tensor table, Tensor points, Tensor? direction, bool mean) -> Tensor",
        _triplane_pytorch.triplane_sample,
        _fake_features,
        _save_features,
        _backward_features,
    ),
    Operation(
        "triplane_sample_table_grad(Tensor grad, Tensor points, Tensor? direction, "
        "SymInt height, SymInt width, bool mean) -> Tensor",
        _triplane_pytorch.triplane_sample_table_grad,
        _fake_table,
        _save_table,
        _backward_table,
        deterministic=False,
    ),
    Operation(
        "triplane_sample_points_grad(Tensor grad, Tensor table, Tensor points, "
        "Tensor? direction, bool mean) -> Tensor",
        _triplane_pytorch.triplane_sample_points_grad,
        _fake_points,
        _save_points,
        _backward_points,
    ),
)
