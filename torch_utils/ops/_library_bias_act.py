"""`bias_act` and its derivatives as operations of PyTorch's library."""

from typing import Any

import torch
from torch import Tensor

from torch_utils.ops._library import Operation, no_third_derivatives
from torch_utils.ops.bias_act import PIECEWISE_LINEAR, along, as_stored, bias_act_reference

_OPTIONS = "int dim, str activation, float alpha, float gain, float? clamp"


def _forward(x, bias, dim, activation, alpha, gain, clamp) -> Tensor:
    options = {"dim": dim, "activation": activation, "alpha": alpha, "gain": gain, "clamp": clamp}
    return _in_layout_of(x, bias_act_reference(x, bias, **options))


def _gradient(grad, saved, bias, dim, activation, alpha, gain, clamp, saved_is_output) -> Tensor:
    dtype, grad = saved.dtype, _widened(grad)
    if saved_is_output:
        y = _widened(saved)
        slope = _first_derivative(activation, y, alpha)
        # Every clamped output equals the limit as stored, which thereby counts as clamped.
        inside = None if clamp is None else y.abs() < as_stored(clamp, dtype)
    else:
        v = _with_bias(saved, bias, dim)
        slope = _first_derivative(activation, v, alpha)
        inside = _inside(v, activation, alpha, gain, clamp)
    result = grad * slope * gain
    result = result if inside is None else result.where(inside, 0)
    return _in_layout_of(saved, result.to(dtype))


def _second_gradient(grad_grad, grad, x, bias, dim, activation, alpha, gain, clamp) -> Tensor:
    v = _with_bias(x, bias, dim)
    result = _widened(grad_grad) * _widened(grad) * _second_derivative(activation, v) * gain
    inside = _inside(v, activation, alpha, gain, clamp)
    result = result if inside is None else result.where(inside, 0)
    return _in_layout_of(x, result.to(x.dtype))


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _with_bias(x: Tensor, bias: Tensor | None, dim: int) -> Tensor:
    return _widened(x) if bias is None else _widened(x) + _widened(along(bias, dim, x))


def _inside(v: Tensor, activation: str, alpha: float, gain: float, clamp: float | None):
    if clamp is None:
        return None
    return bias_act_reference(v, activation=activation, alpha=alpha, gain=gain).abs() <= clamp


def _in_layout_of(x: Tensor, y: Tensor) -> Tensor:
    """Return a result with the memory layout that the shape function promises."""
    expected = torch.empty_like(x, device="meta").stride()
    return y if y.stride() == expected else torch.empty_like(x).copy_(y)


def _first_derivative(activation: str, v: Tensor, alpha: float) -> Tensor:
    if activation == "linear":
        return torch.ones_like(v)
    if activation in ("relu", "lrelu"):
        return torch.full_like(v, alpha if activation == "lrelu" else 0).masked_fill_(v > 0, 1)
    if activation == "tanh":
        return 1 - v.tanh() ** 2
    if activation in ("elu", "selu"):
        scale, factor = _elu_constants(activation)
        return scale * torch.where(v > 0, 1, factor * v.clamp(max=0).exp())
    s = v.sigmoid()
    if activation == "sigmoid":
        return s * (1 - s)
    if activation == "softplus":
        return torch.where(v > _SOFTPLUS_THRESHOLD, 1, s)
    return s + v * s * (1 - s)


def _second_derivative(activation: str, v: Tensor) -> Tensor:
    if activation in PIECEWISE_LINEAR:
        return torch.zeros_like(v)
    if activation == "tanh":
        t = v.tanh()
        return -2 * t * (1 - t**2)
    if activation in ("elu", "selu"):
        scale, factor = _elu_constants(activation)
        return torch.where(v > 0, 0, scale * factor * v.clamp(max=0).exp())
    s = v.sigmoid()
    slope = s * (1 - s)
    if activation == "sigmoid":
        return slope * (1 - 2 * s)
    if activation == "softplus":
        return torch.where(v > _SOFTPLUS_THRESHOLD, 0, slope)
    return slope * (2 + v * (1 - 2 * s))


# Where PyTorch's softplus turns into the identity.
_SOFTPLUS_THRESHOLD = 20


def _elu_constants(activation: str) -> tuple[float, float]:
    """Return the scale and the factor on the exponential."""
    if activation == "elu":
        return 1.0, 1.0
    return 1.0507009873554805, 1.6732632423543772


def _save_forward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, bias, dim, activation, alpha, gain, clamp = inputs
    # The sign of the output tells the slope: nothing but the result is kept.
    ctx.saved_is_output = activation in PIECEWISE_LINEAR and gain > 0 and alpha >= 0
    ctx.save_for_backward(*((output, None) if ctx.saved_is_output else (x, bias)))
    ctx.options = (dim, activation, alpha, gain, clamp)
    ctx.bias_shape = None if bias is None else along(bias, dim, x).shape


def _backward_forward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    saved, bias = ctx.saved_tensors
    # Detached: the slope is constant wherever it is defined.
    saved = saved.detach() if ctx.saved_is_output else saved
    grad = ops.bias_act_grad(grad, saved, bias, *ctx.options, ctx.saved_is_output)
    return grad, _bias_gradient(ctx, grad, 1), *[None] * 5


def _bias_gradient(ctx: Any, grad: Tensor, argument: int) -> Tensor | None:
    if ctx.bias_shape is None or not ctx.needs_input_grad[argument]:
        return None
    return grad.sum_to_size(ctx.bias_shape).flatten()


def _save_gradient(ctx: Any, inputs: tuple, output: Tensor) -> None:
    grad, saved, bias, *options, saved_is_output = inputs
    ctx.save_for_backward(grad, saved, bias)
    ctx.options, ctx.saved_is_output = options, saved_is_output
    ctx.bias_shape = None if bias is None else along(bias, options[0], saved).shape


def _backward_gradient(ops: Any, ctx: Any, grad_grad: Tensor) -> tuple[Any, ...]:
    grad, saved, bias = ctx.saved_tensors
    grad_saved = grad_bias = None
    with_input = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    if with_input and ctx.options[1] not in PIECEWISE_LINEAR:
        grad_saved = ops.bias_act_grad_grad(grad_grad, grad, saved, bias, *ctx.options)
        grad_bias = _bias_gradient(ctx, grad_saved, 2)
    grad = ops.bias_act_grad(grad_grad, saved, bias, *ctx.options, ctx.saved_is_output)
    return grad, grad_saved, grad_bias, *[None] * 6


def _save_nothing(ctx: Any, inputs: tuple, output: Tensor) -> None:
    pass


OPERATIONS = (
    Operation(
        f"bias_act(Tensor x, Tensor? bias, {_OPTIONS}) -> Tensor",
        _forward,
        lambda x, *_: torch.empty_like(x),
        _save_forward,
        _backward_forward,
    ),
    Operation(
        f"bias_act_grad(Tensor grad, Tensor saved, Tensor? bias, {_OPTIONS}, "
        "bool saved_is_output) -> Tensor",
        _gradient,
        lambda grad, saved, *_: torch.empty_like(saved),
        _save_gradient,
        _backward_gradient,
    ),
    Operation(
        f"bias_act_grad_grad(Tensor grad_grad, Tensor grad, Tensor x, Tensor? bias, {_OPTIONS})"
        " -> Tensor",
        _second_gradient,
        lambda grad_grad, grad, x, *_: torch.empty_like(x),
        _save_nothing,
        no_third_derivatives,
    ),
)
