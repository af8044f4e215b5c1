"""Bias, activation, gain and clamp in one differentiable step."""

import math
from types import SimpleNamespace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

from torch_utils.ops._library import register
from torch_utils.ops.execution import Implementation, own_precision, wants_kernels

Activation = Literal["linear", "lrelu"]
# Of each activation: the slope for negative inputs, and the gain that roughly keeps the variance
# of unit Gaussian inputs.
_SLOPES = {"linear": 1.0, "lrelu": 0.2}
_GAINS = {"linear": 1.0, "lrelu": math.sqrt(2)}


def bias_act(
    x: Tensor,  # [..., C, ...]
    bias: Tensor | None = None,  # [C]
    *,
    dim: int = 1,
    activation: Activation = "linear",
    gain: float | None = None,
    clamp: float | None = None,
    impl: Implementation = "auto",
) -> Tensor:  # as x
    """Add a bias, apply an activation, multiply by a gain, clamp to [-clamp, clamp].

    The result has the type of `x`, under autocast too. First and second derivatives are exact. The
    kernel repeats bit for bit. A graph compiler sees the plain formula, which it fuses with its
    neighbours.

    Args:
        x: float64, float32, float16 or bfloat16.
        bias: Added along `dim`, in the type of `x`; None adds nothing.
        activation: "lrelu" multiplies negative values by 0.2.
        gain: Positive factor after the activation; None takes the activation's own, which roughly
            keeps the variance of unit Gaussian inputs.
        clamp: Largest magnitude of the result; None does not clamp.
        impl: "pytorch" forces PyTorch's operations.
    """
    slope = _SLOPES[activation]
    gain = _GAINS[activation] if gain is None else gain
    assert gain > 0 and (clamp is None or clamp >= 0), (gain, clamp)
    dim %= x.ndim
    if bias is not None:
        assert bias.shape == (x.shape[dim],), (bias.shape, x.shape, dim)
        bias = bias.to(x.dtype)
    if torch.compiler.is_compiling():
        return _formula(x, bias, dim, slope, gain, clamp)
    ops = torch.ops.mate3d if wants_kernels(x, impl) else PYTORCH
    return BiasAct.apply(x, bias, ops, dim, slope, gain, clamp)


def _formula(
    x: Tensor, bias: Tensor | None, dim: int, slope: float, gain: float, clamp: float | None
) -> Tensor:
    with own_precision(x):
        y = x if bias is None else x + _along(bias, dim, x)
        y = y if slope == 1 else F.leaky_relu(y, slope)
        y = y if gain == 1 else y * gain
        return y if clamp is None else y.clamp(-clamp, clamp)


def _along(bias: Tensor, dim: int, x: Tensor) -> Tensor:
    """Reshape a bias so that it broadcasts along dimension `dim` of `x`."""
    return bias.reshape([-1 if i == dim else 1 for i in range(x.ndim)])


class BiasAct(Function):
    """The step by given operations; keeps nothing but the result, whose sign tells the slope."""

    @staticmethod
    def forward(ctx, x, bias, ops: Any, dim, slope, gain, clamp):
        y = ops.bias_act(x, bias, dim, slope, gain, clamp)
        ctx.save_for_backward(y)
        ctx.bias_shape = None if bias is None else _along(bias, dim, x).shape
        ctx.ops, ctx.options = ops, (slope, gain, clamp)
        return y

    @staticmethod
    def backward(ctx, grad):
        # Detached: the slope is constant wherever it is defined.
        y = ctx.saved_tensors[0].detach()
        grad = _Gradient.apply(grad, y, ctx.ops, *ctx.options)
        grad_bias = grad.sum_to_size(ctx.bias_shape).flatten() if ctx.needs_input_grad[1] else None
        return grad, grad_bias, *[None] * 5


class _Gradient(Function):
    """The gradient of the step, which is linear in that of the result."""

    @staticmethod
    def forward(ctx, grad, y, ops: Any, slope, gain, clamp):
        ctx.save_for_backward(y)
        ctx.options = (ops, slope, gain, clamp)
        return ops.bias_act_grad(grad, y, slope, gain, clamp)

    @staticmethod
    def backward(ctx, grad_grad):
        return _Gradient.apply(grad_grad, *ctx.saved_tensors, *ctx.options), *[None] * 5


def _forward(x, bias, dim, slope, gain, clamp) -> Tensor:
    # The positive gain moves in front of the activation, which scales with it.
    y = x * gain if bias is None else torch.add(_along(bias, dim, x) * gain, x, alpha=gain)
    if slope != 1:
        F.leaky_relu_(y, slope)
    return y if clamp is None else y.clamp_(-clamp, clamp)


def _gradient(grad, y, slope, gain, clamp) -> Tensor:
    if slope != 1:
        grad = torch.ops.aten.leaky_relu_backward(grad, y, slope, True)
    if clamp is not None:
        # The limit itself counts as clamped, whatever became of it in a half type.
        limit = torch.tensor(clamp, dtype=y.dtype).item()
        grad = torch.ops.aten.hardtanh_backward(grad, y, -limit, limit)
    return grad * gain


PYTORCH = SimpleNamespace(bias_act=_forward, bias_act_grad=_gradient)

register(
    "bias_act(Tensor x, Tensor? bias, int dim, float slope, float gain, float? clamp) -> Tensor",
    _forward,
    lambda x, *_: torch.empty_like(x),
)
register(
    "bias_act_grad(Tensor grad, Tensor y, float slope, float gain, float? clamp) -> Tensor",
    _gradient,
    lambda grad, y, *_: torch.empty_like(y),
)
