"""Plane features -> colour, global SDF, class SDFs; SDF -> density, in one place."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mate3d.layers import FullyConnected

_CHUNK_POINTS = 2048


def sdf_to_density(
    sdf: Tensor,  # [...], world units
    beta: Tensor | float,
) -> Tensor:  # [...], per world unit, in (0, 1 / beta)
    """Return sigmoid(-sdf / b) / b with b = |beta| + 1e-4 (StyleSDF; spec 6.2)."""
    width = beta.abs() + 1e-4 if isinstance(beta, Tensor) else abs(beta) + 1e-4
    return torch.sigmoid(-sdf / width) / width


def make_head(num_inputs: int, hidden_width: int, num_outputs: int) -> nn.Sequential:
    """Return a two-layer equalised MLP with a softplus between."""
    return nn.Sequential(
        FullyConnected(num_inputs, hidden_width),
        nn.Softplus(),
        FullyConnected(hidden_width, num_outputs),
    )


def make_class_heads(num_inputs: int, hidden_width: int, num_classes: int) -> nn.ModuleList:
    """Return one head a class, each with a single output: its signed distance."""
    return nn.ModuleList(make_head(num_inputs, hidden_width, 1) for _ in range(num_classes))


def evaluate_heads(
    heads: Sequence[nn.Sequential],
    features: Tensor,  # [B, N, C]
) -> Tensor:  # [B, N, outputs of all heads]
    """Evaluate heads of `make_head` on the same features, as one grouped MLP."""
    first_weight = torch.cat([head[0].scaled_weight() for head in heads])
    first_bias = torch.cat([head[0].scaled_bias() for head in heads])
    second_weight = torch.block_diag(*[head[2].scaled_weight() for head in heads])
    second_bias = torch.cat([head[2].scaled_bias() for head in heads])

    def evaluate(part: Tensor) -> Tensor:
        hidden = functional.softplus(functional.linear(part, first_weight, first_bias))
        # One product with mostly zeros is faster, backward above all, than one a head.
        return functional.linear(hidden, second_weight, second_bias)

    # The hidden layers of all heads are far larger than their results; without gradients they
    # need not be kept, and small pieces stay in the processor's cache.
    size = features.shape[1] if torch.is_grad_enabled() else _CHUNK_POINTS
    return torch.cat([evaluate(part) for part in features.split(size, dim=1)], dim=1)


def widened_sigmoid(
    logits: Tensor,  # [...]
) -> Tensor:  # [...], in -0.001..1.001
    """Return colours from logits; the slight widening is mip-NeRF's."""
    return torch.sigmoid(logits) * 1.002 - 0.001


class SDFDecoder(nn.Module):
    """One colour head, one global SDF head and one small SDF head a class (spec 6.2).

    Args:
        plane_channels: Features looked up at a point.
        hidden_width: Width of every head's hidden layer.
        num_features: Colour features; the first three are RGB.
        num_classes: Label classes K.
        beta: Initial sharpness length of SDF -> density, world units.
        learn_beta: Make beta a parameter; published weights hold it as a buffer.
    """

    def __init__(
        self,
        plane_channels: int,
        hidden_width: int,
        num_features: int,
        num_classes: int,
        *,
        beta: float = 0.1,
        learn_beta: bool = False,
    ):
        super().__init__()
        self.color_head = make_head(plane_channels, hidden_width, num_features)
        self.sdf_head = make_head(plane_channels, hidden_width, 1)
        self.class_heads = make_class_heads(plane_channels, hidden_width, num_classes)
        value = torch.full((1,), beta)
        if learn_beta:
            self.beta = nn.Parameter(value)
        else:
            self.register_buffer("beta", value)

    def colors(
        self,
        texture_features: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, N, F], in -0.001..1.001
        """Return colour features."""
        return widened_sigmoid(self.color_head(texture_features))

    def sdf(
        self,
        shape_features: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, N, 1]
        """Return the global signed distance."""
        return self.sdf_head(shape_features)

    def distances(
        self,
        shape_features: Tensor,  # [B, N, C]
    ) -> tuple[Tensor, Tensor]:  # sdf [B, N, 1], class_sdf [B, N, K]
        """Return the global and every class's signed distance."""
        values = evaluate_heads([self.sdf_head, *self.class_heads], shape_features)
        return values[..., :1], values[..., 1:]

    def density(
        self,
        sdf: Tensor,  # [...]
    ) -> Tensor:  # [...]
        """Turn global or class distances into density with this decoder's beta."""
        return sdf_to_density(sdf, self.beta)
