"""Plane features -> colour, global SDF and class SDFs; SDF -> density.

The MLPs are evaluated together, and backward recomputes hidden layers instead of storing them:
twenty MLPs with 64 hidden units at 400,000 samples need 2 GB per tensor, and autograd keeps two.
Both passes process the points in chunks that fit in the CPU cache.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.autograd.function import Function
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

from mate3d.network.layers import FullyConnected
from torch_utils.ops.execution import at_least_single, own_precision

_LOG2_E = math.log2(math.e)
# exp2 overflows float32 above this.
_MAX_EXPONENT = 127.0
# Bytes of a chunk's hidden layers; on a CPU for each thread, to fit in its core's own cache. With
# twice this, elementwise operations take twice as long.
_CHUNK_BYTES = {"cpu": 640 * 2**10, "cuda": 2**29}


def sdf_to_density(
    sdf: Tensor,  # [...], world units
    beta: Tensor | float,
) -> Tensor:  # [...], per world unit, in (0, 1 / beta)
    """Return sigmoid(-sdf / b) / b with b = |beta| + 1e-4 (StyleSDF; spec 6.2)."""
    width = beta.abs() + 1e-4 if isinstance(beta, Tensor) else abs(beta) + 1e-4
    return torch.sigmoid(-sdf / width) / width


def make_mlp(num_inputs: int, hidden_width: int, num_outputs: int) -> nn.Sequential:
    """Return a two-layer equalized MLP with a softplus between."""
    return nn.Sequential(
        FullyConnected(num_inputs, hidden_width),
        nn.Softplus(),
        FullyConnected(hidden_width, num_outputs),
    )


def feature_gradient(
    mlp: nn.Sequential,
    features: Tensor,  # [B, N, C]
) -> Tensor:  # [B, N, C]
    """Return the gradient of the first output of an MLP from `make_mlp`, in closed form.

    With features s, hidden values h = W1 s + b1 and distance d = w2 softplus(h) + b2, it is
    (w2 * sigmoid(h)) W1, differentiable with respect to features and weights.
    `pull_back_to_points` turns it into the gradient at points. A loss on gradients then needs no
    `create_graph`: one backward pass instead of a double backward.
    """
    first, _, second = mlp
    weight = first.scaled_weight()
    hidden = F.linear(features, weight, first.scaled_bias())
    return (torch.sigmoid(hidden) * second.scaled_weight()[0]) @ weight


def make_class_mlps(
    num_inputs: int, hidden_width: int, num_classes: int, *, with_local_sdfs: bool = True
) -> nn.ModuleList:
    """Return one MLP per class, each with a single output: its signed distance.

    Without local SDFs, return one MLP for all classes; its outputs are pseudo distances, -logit.
    """
    if not with_local_sdfs and num_classes > 0:
        return nn.ModuleList([make_mlp(num_inputs, hidden_width, num_classes)])
    return nn.ModuleList(make_mlp(num_inputs, hidden_width, 1) for _ in range(num_classes))


def evaluate_class_mlps(
    class_mlps: nn.ModuleList,
    features: Tensor,  # [B, N, C]
) -> Tensor:  # [B, N, K]
    """Evaluate the MLPs from `make_class_mlps`; there may be none."""
    if len(class_mlps) == 0:
        return features.new_zeros(*features.shape[:-1], 0)
    return evaluate_mlps(class_mlps, features)


def widened_sigmoid(
    logits: Tensor,  # [...]
) -> Tensor:  # [...], in -0.001..1.001
    """Return colours from logits, slightly widened as in mip-NeRF."""
    return torch.sigmoid(logits) * 1.002 - 0.001


class _ExponentialAbove(nn.Module):
    """Parametrization of a value that is always more than `least`."""

    def __init__(self, least: float):
        super().__init__()
        self._least = least

    def forward(self, log_excess: Tensor) -> Tensor:
        return self._least + log_excess.exp()

    def right_inverse(self, value: Tensor) -> Tensor:
        return (value - self._least).clamp(min=1e-3 * self._least).log()


class SDFDecoder(nn.Module):
    """One MLP for colour, one for the global SDF, and a small one per class (spec 6.2).

    Args:
        plane_channels: Features per point.
        num_features: Colour features; the first three are RGB.
        num_classes: Label classes K.
        beta: Initial beta (surface softness) of SDF -> density, in world units.
        least_beta: Learn log(beta - least_beta), so that beta stays above it whatever the step;
            None makes beta a buffer, as it is in published weights.
        with_local_sdfs: See `make_class_mlps`.
    """

    def __init__(
        self,
        plane_channels: int,
        hidden_width: int,
        num_features: int,
        num_classes: int,
        *,
        beta: float = 0.1,
        least_beta: float | None = None,
        with_local_sdfs: bool = True,
    ):
        super().__init__()
        self.color_head = make_mlp(plane_channels, hidden_width, num_features)
        self.sdf_head = make_mlp(plane_channels, hidden_width, 1)
        self.class_heads = make_class_mlps(
            plane_channels, hidden_width, num_classes, with_local_sdfs=with_local_sdfs
        )
        value = torch.full((1,), beta)
        if least_beta is None:
            self.register_buffer("beta", value)
        elif beta < 0.999 * least_beta:
            raise ValueError(
                f"beta={beta:g} is less than learn_beta=true can reach with these samples; set "
                f"beta to {least_beta:.2g} or more"
            )
        else:
            self.beta = nn.Parameter(value)
            register_parametrization(self, "beta", _ExponentialAbove(least_beta))

    def colors(
        self,
        texture_features: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, N, F], in -0.001..1.001
        """Return colour features."""
        return widened_sigmoid(evaluate_mlps([self.color_head], texture_features))

    def sdf(
        self,
        shape_features: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, N, 1]
        """Return the global signed distance."""
        return evaluate_mlps([self.sdf_head], shape_features)

    def sdf_gradient(
        self,
        shape_features: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, N, C]
        """Return the gradient of the global distance with respect to the features."""
        return feature_gradient(self.sdf_head, shape_features)

    def distances(
        self,
        shape_features: Tensor,  # [B, N, C]
    ) -> tuple[Tensor, Tensor]:  # sdf [B, N, 1], class_sdf [B, N, K]
        """Return the global signed distance and that of every class."""
        values = evaluate_mlps([self.sdf_head, *self.class_heads], shape_features)
        return values[..., :1], values[..., 1:]

    def class_distances(
        self,
        shape_features: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, N, K]
        """Return every class's signed distance."""
        return evaluate_class_mlps(self.class_heads, shape_features)

    def density(
        self,
        sdf: Tensor,  # [...]
    ) -> Tensor:  # [...]
        """Convert global or class distances to density with this decoder's beta."""
        return sdf_to_density(sdf, self.beta)


def evaluate_mlps(
    mlps: Sequence[nn.Sequential],
    features: Tensor,  # [..., C]
) -> Tensor:  # [..., outputs of all MLPs]
    """Evaluate MLPs from `make_mlp` on the same features, as one grouped MLP in float32."""
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
    """Evaluate G two-layer MLPs with a softplus between, all on the same features.

    Hidden layers are not stored. First and second gradients are exact; second gradients fall back
    to PyTorch's functions and their memory use. Half precision is promoted to single, even under
    autocast, because distances are compared with a small beta.
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
    """Compute `grouped_mlps` with PyTorch functions."""
    num_mlps, _, width = second_weight.shape
    hidden = F.softplus(F.linear(features, first_weight, first_bias))
    hidden = hidden.unflatten(1, (num_mlps, width))
    return (torch.einsum("mgh,goh->mgo", hidden, second_weight) + second_bias).flatten(1)


class _GroupedMLPs(Function):
    @staticmethod
    def forward(ctx, features, first_weight, first_bias, second_weight, second_bias):
        weights = first_weight, first_bias, second_weight, second_bias
        ctx.save_for_backward(features, *weights)
        num_mlps, num_outputs, _ = second_weight.shape
        result = features.new_empty(len(features), num_mlps * num_outputs)
        hidden_layers = _HiddenLayers(features, first_weight, first_bias)
        for rows in hidden_layers.pieces():
            hidden = hidden_layers.softplus(rows)
            if num_mlps == 1:
                torch.mm(hidden.t(), second_weight[0].t(), out=result[rows])
            else:
                values = torch.bmm(second_weight, hidden.unflatten(0, (num_mlps, -1)))
                result[rows] = values.flatten(0, 1).t()
        result += second_bias.flatten()
        if hidden_layers.in_base_2 and not math.isfinite(result.sum()):  # 2^h overflowed.
            for rows in hidden_layers.pieces():
                result[rows] = grouped_mlps_reference(features[rows], *weights)
        return result

    @staticmethod
    def backward(ctx, grad):
        if torch.is_grad_enabled():  # Second gradients are needed.
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
    """Return the gradients of the arguments of `grouped_mlps` that need one."""
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
    # With one output per MLP, scale sums over points by the weights instead of every point.
    gain = second_weight.reshape(-1, 1) if num_outputs == 1 else None
    weight = first_weight if gain is None else first_weight * gain
    for rows in hidden_layers.pieces():
        piece = grad[rows].t().unflatten(0, (num_mlps, num_outputs))
        hidden, slope = hidden_layers.softplus_and_slope(rows, with_value=needs_second)
        if needs_second:
            hidden = hidden.unflatten(0, (num_mlps, width))
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
    """The hidden layers after activation, in chunks, [G * H, points].

    Points come last, so that the second layer multiplies contiguous rows. On a CPU all chunks
    share memory, since fresh pages cost more than the product; the bias is the weight of a
    constant input, which saves a pass; and softplus is the logarithm of 2^h + 1 with h in base 2.
    Unlike log1p and F.softplus, that is fast in every PyTorch release; its error of 1e-7 does not
    matter to a sum over the hidden layer.
    """

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor):
        self.in_base_2 = features.device.type == "cpu"
        self._features, self._weight, self._bias = features, weight, bias[:, None]
        size = _CHUNK_BYTES["cuda"]
        if self.in_base_2:
            size = _CHUNK_BYTES["cpu"] * torch.get_num_threads()
            self._weight = torch.cat([weight, self._bias], dim=1) * _LOG2_E
            self._allocate(0)
        step = max(size // (weight.element_size() * len(weight)), 1)
        self._step = step // 64 * 64 or step  # whole vectors

    def pieces(self) -> Iterator[slice]:
        """Yield the rows of each chunk."""
        for first in range(0, len(self._features), self._step):
            yield slice(first, first + self._step)

    def softplus(self, rows: slice) -> Tensor:
        """Return the activation, infinite where 2^h overflows; overwrites the last result."""
        hidden = self._hidden(rows)
        return hidden.exp2_().add_(1).log_() if self.in_base_2 else F.softplus(hidden)

    def softplus_and_slope(self, rows: slice, *, with_value: bool) -> tuple[Tensor | None, Tensor]:
        """Return the activation, if requested, and its derivative; overwrites the last results."""
        hidden = self._hidden(rows)
        if self.in_base_2 and float(hidden.amax()) < _MAX_EXPONENT:
            power_plus_1 = torch.add(hidden.exp2_(), 1, out=self._buffers[1])
            slope = hidden.div_(power_plus_1)
            return power_plus_1.log_() if with_value else None, slope
        hidden = hidden / _LOG2_E if self.in_base_2 else hidden
        return F.softplus(hidden) if with_value else None, torch.sigmoid(hidden)

    def _hidden(self, rows: slice) -> Tensor:
        """Return the values before activation, in base 2 on a CPU."""
        features = self._features[rows]
        if not self.in_base_2:
            return torch.addmm(self._bias, self._weight, features.t())
        if len(features) != len(self._inputs):
            self._allocate(len(features))
        self._inputs[:, :-1] = features
        return torch.mm(self._weight, self._inputs.t(), out=self._buffers[0])

    def _allocate(self, num_points: int) -> None:
        self._inputs = self._features.new_ones(num_points, self._weight.shape[1])
        self._buffers = self._features.new_empty(2, len(self._weight), num_points)
