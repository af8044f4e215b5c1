"""Bias, activation, gain and clamp in one differentiable step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

from torch_utils.ops._dispatch import Implementation, wants_kernels, wants_reference
from torch_utils.precision import own_precision

Activation = Literal[
    "linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"
]


@dataclass(frozen=True)
class _ActivationSpec:
    function: Callable[[Tensor, float], Tensor]
    gain: float = 1.0
    alpha: float = 0.0  # slope for negative inputs, where the activation has one


ACTIVATIONS: dict[str, _ActivationSpec] = {
    "linear": _ActivationSpec(lambda x, _: x),
    "relu": _ActivationSpec(lambda x, _: F.relu(x), gain=math.sqrt(2)),
    "lrelu": _ActivationSpec(F.leaky_relu, gain=math.sqrt(2), alpha=0.2),
    "tanh": _ActivationSpec(lambda x, _: torch.tanh(x)),
    "sigmoid": _ActivationSpec(lambda x, _: torch.sigmoid(x)),
    "elu": _ActivationSpec(lambda x, _: F.elu(x)),
    "selu": _ActivationSpec(lambda x, _: F.selu(x)),
    "softplus": _ActivationSpec(lambda x, _: F.softplus(x)),
    "swish": _ActivationSpec(lambda x, _: x * torch.sigmoid(x), gain=math.sqrt(2)),
}
# Their second derivative is zero, so the slope at each element is all that a backward pass needs.
PIECEWISE_LINEAR = ("linear", "relu", "lrelu")


def bias_act(
    x: Tensor,  # [..., C, ...]
    bias: Tensor | None = None,  # [C]
    *,
    dim: int = 1,
    activation: Activation = "linear",
    alpha: float | None = None,
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
        activation: The second derivative of linear, relu and lrelu is zero everywhere.
        alpha: Negative slope of lrelu; None takes 0.2. No other activation has one.
        gain: Factor after the activation; None takes the activation's own, which roughly keeps
            the variance of unit Gaussian inputs.
        clamp: Largest magnitude of the result; None does not clamp.
        impl: "pytorch" forces PyTorch's operations, "reference" `bias_act_reference`.

    Raises:
        ValueError: If the activation is unknown, clamp is negative or the bias does not fit.
    """
    spec = _read_options(x, bias, dim, activation, clamp)
    alpha = spec.alpha if alpha is None else alpha
    gain = spec.gain if gain is None else gain
    bias = None if bias is None else bias.to(x.dtype)
    options = {"dim": dim, "activation": activation, "alpha": alpha, "gain": gain, "clamp": clamp}
    if wants_reference(impl) or torch.compiler.is_compiling():
        return bias_act_reference(x, bias, **options)
    if wants_kernels(x, impl):
        dim %= x.ndim
        return torch.ops.mate3d.bias_act(x, bias, dim, activation, alpha, gain, clamp)
    slope = {"linear": 1.0, "relu": 0.0, "lrelu": alpha}.get(activation)
    if slope is None or slope < 0 or gain <= 0:
        return bias_act_reference(x, bias, **options)
    return _PiecewiseLinear.apply(
        x, None if bias is None else along(bias, dim, x), slope, gain, clamp
    )


def bias_act_reference(
    x: Tensor,  # [..., C, ...]
    bias: Tensor | None = None,  # [C]
    *,
    dim: int = 1,
    activation: Activation = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:  # as x
    """Compute `bias_act` one operation after the other."""
    spec = ACTIVATIONS[activation]
    with own_precision(x):
        y = x if bias is None else x + along(bias, dim, x)
        y = spec.function(y, spec.alpha if alpha is None else alpha)
        gain = spec.gain if gain is None else gain
        if gain != 1:
            y = y * gain
        return y if clamp is None else y.clamp(-clamp, clamp)


def _read_options(
    x: Tensor, bias: Tensor | None, dim: int, activation: str, clamp: float | None
) -> _ActivationSpec:
    if activation not in ACTIVATIONS:
        allowed = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation is {activation!r}; allowed are {allowed}")
    if clamp is not None and clamp < 0:
        raise ValueError(f"clamp is {clamp}; it must be positive, or None for no clamping")
    if bias is not None and bias.shape != (x.shape[dim],):
        shapes = f"{list(bias.shape)} for x of shape {list(x.shape)} and dim {dim}"
        raise ValueError(f"shape of the bias is {shapes}; it must be [{x.shape[dim]}]")
    return ACTIVATIONS[activation]


def along(bias: Tensor, dim: int, x: Tensor) -> Tensor:
    """Reshape a bias so that it broadcasts along dimension `dim` of `x`."""
    shape = [1] * x.ndim
    shape[dim] = -1
    return bias.reshape(shape)


def as_stored(value: float, dtype: torch.dtype) -> float:
    """Return a number as a tensor of a type holds it."""
    return torch.tensor(value, dtype=dtype).item()


class _PiecewiseLinear(Function):
    """Linear, relu or lrelu in few passes over memory; keeps nothing but the result.

    The positive gain moves in front of the activation, which scales with it.
    """

    @staticmethod
    def forward(ctx, x, bias, slope, gain, clamp):
        y = x * gain if bias is None else torch.add(bias * gain, x, alpha=gain)
        if slope != 1:
            F.leaky_relu_(y, slope)
        if clamp is not None:
            y.clamp_(-clamp, clamp)
        ctx.save_for_backward(y)
        ctx.bias_shape = None if bias is None else bias.shape
        ctx.slope, ctx.gain, ctx.clamp = slope, gain, clamp
        return y

    @staticmethod
    def backward(ctx, grad):
        # Detached: the slope is constant wherever it is defined.
        y = ctx.saved_tensors[0].detach()
        if ctx.slope != 1:
            grad = torch.ops.aten.leaky_relu_backward(grad, y, ctx.slope, True)
        if ctx.clamp is not None:
            # The limit itself counts as clamped, whatever became of it in a half type.
            limit = as_stored(ctx.clamp, y.dtype)
            grad = torch.ops.aten.hardtanh_backward(grad, y, -limit, limit)
        if ctx.gain != 1:
            grad = grad * ctx.gain
        grad_bias = grad.sum_to_size(ctx.bias_shape) if ctx.needs_input_grad[1] else None
        return grad, grad_bias, None, None, None
