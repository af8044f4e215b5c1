"""Bias, activation, gain and clamp in one differentiable step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

from torch_utils.ops._dispatch import Implementation, wants_reference

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
_PIECEWISE_LINEAR = ("linear", "relu", "lrelu")
_FIXED_SLOPES = {"linear": 1.0, "relu": 0.0}


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

    Args:
        bias: Added along `dim`; None adds nothing.
        activation: The second derivative of linear, relu and lrelu is zero everywhere.
        alpha: Negative slope of lrelu; None takes 0.2. No other activation has one.
        gain: Factor after the activation; None takes the activation's own, which roughly keeps
            the variance of unit Gaussian inputs.
        clamp: Largest magnitude of the result; None does not clamp.
        impl: "reference" forces `bias_act_reference`.
    """
    spec = ACTIVATIONS[activation]
    gain = spec.gain if gain is None else gain
    if wants_reference(impl) or activation not in _PIECEWISE_LINEAR or gain <= 0:
        return bias_act_reference(
            x, bias, dim=dim, activation=activation, alpha=alpha, gain=gain, clamp=clamp
        )
    slope = {"linear": 1.0, "relu": 0.0, "lrelu": spec.alpha if alpha is None else alpha}[
        activation
    ]
    if bias is not None:
        bias = _along(bias, dim, x)
    return _PiecewiseLinear.apply(x, bias, slope, gain, clamp)


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
    if bias is not None:
        x = x + _along(bias, dim, x)
    x = spec.function(x, spec.alpha if alpha is None else alpha)
    gain = spec.gain if gain is None else gain
    if gain != 1:
        x = x * gain
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    return x


def _along(bias: Tensor, dim: int, x: Tensor) -> Tensor:
    """Reshape a bias so that it broadcasts along dimension `dim` of `x`."""
    assert bias.shape == (x.shape[dim],), (bias.shape, x.shape, dim)
    shape = [1] * x.ndim
    shape[dim] = -1
    return bias.reshape(shape)


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
            grad = torch.ops.aten.hardtanh_backward(grad, y, -ctx.clamp, ctx.clamp)
        if ctx.gain != 1:
            grad = grad * ctx.gain
        grad_bias = grad.sum_to_size(ctx.bias_shape) if ctx.needs_input_grad[1] else None
        return grad, grad_bias, None, None, None
