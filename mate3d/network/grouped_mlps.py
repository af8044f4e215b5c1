"""Decoder MLPs evaluated together; for gradients hidden layers are computed again, not kept.

Twenty MLPs of 64 hidden values at 400,000 samples are 2 GB a tensor, and autograd keeps two. Here
both passes walk over the points in pieces, and the pieces stay in a CPU's cache.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.autograd.function import Function
from torch.nn import functional as F

from torch_utils.precision import at_least_single, own_precision

_LOG2_E = math.log2(math.e)
# exp2 of more is infinite in float32.
_MAX_EXPONENT = 127.0
# Points whose hidden layers are computed together.
_CHUNK_POINTS = {"cpu": 512, "cuda": 2**17}


def evaluate_mlps(
    mlps: Sequence[nn.Sequential],
    features: Tensor,  # [..., C]
) -> Tensor:  # [..., outputs of all MLPs]
    """Evaluate MLPs of `make_mlp` on the same features, as one grouped MLP in float32."""
    rows, values = features.reshape(-1, features.shape[-1]), []
    for _, neighbours in groupby(mlps, lambda mlp: mlp[2].weight.shape):
        group = list(neighbours)
        values.append(
            grouped_mlps(
                rows,
                torch.cat([mlp[0].scaled_weight() for mlp in group]),
                torch.cat([mlp[0].scaled_bias() for mlp in group]),
                torch.stack([mlp[2].scaled_weight() for mlp in group]),
                torch.stack([mlp[2].scaled_bias() for mlp in group]),
            )
        )
    result = torch.cat(values, dim=1) if len(values) > 1 else values[0]
    return result.view(*features.shape[:-1], result.shape[1])


def grouped_mlps(
    features: Tensor,  # [M, C]
    first_weight: Tensor,  # [G * H, C]
    first_bias: Tensor,  # [G * H]
    second_weight: Tensor,  # [G, O, H]
    second_bias: Tensor,  # [G, O]
) -> Tensor:  # [M, G * O]
    """Evaluate G two-layer MLPs with softplus between, all on the same features.

    Memory does not grow with the hidden layers. Gradients are exact, second ones included; for
    those PyTorch's own functions compute everything again, at the usual cost in memory. Half
    precision becomes single, also under autocast: distances are compared with small sharpness
    lengths.

    Args:
        features: Rows to evaluate; the result's rows follow them.
        first_weight: First layers of all MLPs, below each other.
        first_bias: Their biases.
        second_weight: Second layers, each with O outputs.
        second_bias: Their biases.
    """
    with own_precision(features):
        tensors = (features, first_weight, first_bias, second_weight, second_bias)
        return _GroupedMLPs.apply(*(at_least_single(tensor) for tensor in tensors))


def grouped_mlps_reference(
    features: Tensor,  # [M, C]
    first_weight: Tensor,  # [G * H, C]
    first_bias: Tensor,  # [G * H]
    second_weight: Tensor,  # [G, O, H]
    second_bias: Tensor,  # [G, O]
) -> Tensor:  # [M, G * O]
    """Compute `grouped_mlps` by PyTorch's own functions."""
    num_mlps, _, width = second_weight.shape
    hidden = F.softplus(F.linear(features, first_weight, first_bias))
    hidden = hidden.unflatten(1, (num_mlps, width))
    return (torch.einsum("mgh,goh->mgo", hidden, second_weight) + second_bias).flatten(1)


class _GroupedMLPs(Function):
    @staticmethod
    def forward(ctx, features, first_weight, first_bias, second_weight, second_bias):
        ctx.save_for_backward(features, first_weight, first_bias, second_weight, second_bias)
        num_mlps, num_outputs, _ = second_weight.shape
        result = features.new_empty(len(features), num_mlps * num_outputs)
        hidden_layers = _HiddenLayers(features, first_weight, first_bias)
        for rows, scaled in hidden_layers.pieces():
            hidden = hidden_layers.softplus(rows, scaled).unflatten(0, (num_mlps, -1))
            values = torch.baddbmm(second_bias[..., None], second_weight, hidden)
            result[rows] = values.flatten(0, 1).t()
        return result

    @staticmethod
    def backward(ctx, grad):
        if torch.is_grad_enabled():  # Gradients of gradients are wanted.
            inputs = [
                tensor if needed else tensor.detach()
                for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
            ]
            wanted = [tensor for tensor in inputs if tensor.requires_grad]
            values = grouped_mlps_reference(*inputs)
            found = iter(torch.autograd.grad(values, wanted, grad, create_graph=True))
            return tuple(next(found) if tensor.requires_grad else None for tensor in inputs)
        return _gradients(grad, *ctx.saved_tensors, needed=ctx.needs_input_grad)


def _gradients(
    grad: Tensor,  # [M, G * O]
    features: Tensor,
    first_weight: Tensor,
    first_bias: Tensor,
    second_weight: Tensor,
    second_bias: Tensor,
    *,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of those arguments of `grouped_mlps` that need one."""
    needs_features, needs_first, needs_first_bias, needs_second, needs_second_bias = needed
    num_mlps, num_outputs, width = second_weight.shape
    results = [
        torch.zeros_like(tensor) if is_needed else None
        for tensor, is_needed in zip(
            (features, first_weight, first_bias, second_weight, second_bias), needed, strict=True
        )
    ]
    grad_features, grad_first, grad_first_bias, grad_second, grad_second_bias = results
    hidden_layers = _HiddenLayers(features, first_weight, first_bias)
    # With one output an MLP, its weights scale sums over points instead of every point.
    gain = second_weight.reshape(-1, 1) if num_outputs == 1 else None
    weight = first_weight if gain is None else first_weight * gain
    for rows, scaled in hidden_layers.pieces():
        piece = grad[rows].t().unflatten(0, (num_mlps, num_outputs))
        hidden, slope = hidden_layers.softplus_and_slope(rows, scaled, with_value=needs_second)
        if needs_second:
            hidden = hidden.unflatten(0, (num_mlps, width))
            if num_outputs == 1:
                grad_second += torch.linalg.vecdot(hidden, piece)[:, None]
            else:
                grad_second.baddbmm_(piece, hidden.transpose(1, 2))
        if needs_second_bias:
            grad_second_bias += piece.sum(dim=2)
        upstream = piece if gain is not None else second_weight.transpose(1, 2) @ piece
        slope.unflatten(0, (num_mlps, width)).mul_(upstream)
        if needs_features:
            torch.mm(slope.t(), weight, out=grad_features[rows])
        if needs_first:
            grad_first.addmm_(slope, features[rows])
        if needs_first_bias:
            grad_first_bias += slope.sum(dim=1)
    if gain is not None:
        for tensor in (grad_first, grad_first_bias):
            if tensor is not None:
                tensor *= gain.view(-1, *[1] * (tensor.ndim - 1))
    return tuple(results)


class _HiddenLayers:
    """The hidden layers before their activation, piece by piece, [G * H, points].

    Points come last, so that an MLP's few outputs are a product with contiguous rows. On a CPU
    everything is in base 2: exp2 and log are half the time of softplus there. log1p would be exact
    for values near 0, where nobody needs it, and is scalar in some releases of PyTorch (2.14).
    """

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor):
        self._features, self._plain = features, (bias[:, None], weight)
        self._in_base_2 = features.device.type == "cpu" and features.dtype == torch.float32
        self._scaled = self._plain
        if self._in_base_2:
            self._scaled = tuple(tensor * _LOG2_E for tensor in self._plain)

    def pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows of the features and their scaled hidden layers."""
        step = _CHUNK_POINTS.get(self._features.device.type, _CHUNK_POINTS["cuda"])
        for first in range(0, len(self._features), step):
            rows = slice(first, first + step)
            yield rows, self._hidden(rows, self._scaled)

    def softplus(self, rows: slice, scaled: Tensor) -> Tensor:
        """Return the activation; overwrites the hidden layers."""
        if not self._is_safe(scaled):
            return F.softplus(self._hidden(rows, self._plain))
        return scaled.exp2_().add_(1).log_()

    def softplus_and_slope(
        self, rows: slice, scaled: Tensor, *, with_value: bool
    ) -> tuple[Tensor | None, Tensor]:
        """Return the activation, if asked for, and its derivative; overwrites the hidden layers."""
        if not self._is_safe(scaled):
            plain = self._hidden(rows, self._plain)
            return F.softplus(plain) if with_value else None, torch.sigmoid(plain)
        power = scaled.exp2_()
        power_plus_1 = power + 1
        slope = power.div_(power_plus_1)
        return power_plus_1.log_() if with_value else None, slope

    def _is_safe(self, scaled: Tensor) -> bool:
        return self._in_base_2 and float(scaled.amax()) < _MAX_EXPONENT

    def _hidden(self, rows: slice, layer: tuple[Tensor, Tensor]) -> Tensor:
        return torch.addmm(*layer, self._features[rows].t())
