"""Plane features -> colour, global SDF, class SDFs; SDF -> density, in one place."""

import torch
from torch import Tensor, nn

from mate3d.network.grouped_mlps import evaluate_mlps
from mate3d.network.layers import FullyConnected


def sdf_to_density(
    sdf: Tensor,  # [...], world units
    beta: Tensor | float,
) -> Tensor:  # [...], per world unit, in (0, 1 / beta)
    """Return sigmoid(-sdf / b) / b with b = |beta| + 1e-4 (StyleSDF; spec 6.2)."""
    width = beta.abs() + 1e-4 if isinstance(beta, Tensor) else abs(beta) + 1e-4
    return torch.sigmoid(-sdf / width) / width


def make_mlp(num_inputs: int, hidden_width: int, num_outputs: int) -> nn.Sequential:
    """Return a two-layer equalised MLP with a softplus between."""
    return nn.Sequential(
        FullyConnected(num_inputs, hidden_width),
        nn.Softplus(),
        FullyConnected(hidden_width, num_outputs),
    )


def feature_gradient(
    mlp: nn.Sequential,
    features: Tensor,  # [B, N, C]
) -> Tensor:  # [B, N, C]
    """Return the gradient of the first output of an MLP of `make_mlp`, in closed form.

    With features s, hidden values h = W1 s + b1 and distance d = w2 softplus(h) + b2, it is
    (w2 * sigmoid(h)) W1, differentiable for features and weights. Pulled back through a look-up
    (`pull_back_to_points`) it becomes the gradient at points. Without `create_graph` a loss on
    gradients costs one backward pass, not a backward pass through a backward pass.
    """
    first, _, second = mlp
    weight = first.scaled_weight()
    hidden = nn.functional.linear(features, weight, first.scaled_bias())
    return (torch.sigmoid(hidden) * second.scaled_weight()[0]) @ weight


def make_class_mlps(
    num_inputs: int, hidden_width: int, num_classes: int, *, with_local_sdfs: bool = True
) -> nn.ModuleList:
    """Return one MLP a class, each with a single output: its signed distance.

    Without local SDFs there is one MLP for all classes; its outputs are pseudo distances, -logit.
    """
    if not with_local_sdfs and num_classes > 0:
        return nn.ModuleList([make_mlp(num_inputs, hidden_width, num_classes)])
    return nn.ModuleList(make_mlp(num_inputs, hidden_width, 1) for _ in range(num_classes))


def evaluate_class_mlps(
    class_mlps: nn.ModuleList,
    features: Tensor,  # [B, N, C]
) -> Tensor:  # [B, N, K]
    """Evaluate the MLPs of `make_class_mlps`, of which there may be none."""
    if len(class_mlps) == 0:
        return features.new_zeros(*features.shape[:-1], 0)
    return evaluate_mlps(class_mlps, features)


def widened_sigmoid(
    logits: Tensor,  # [...]
) -> Tensor:  # [...], in -0.001..1.001
    """Return colours from logits; the slight widening is mip-NeRF's."""
    return torch.sigmoid(logits) * 1.002 - 0.001


class SDFDecoder(nn.Module):
    """One MLP for colour, one for the global SDF, one small one a class (spec 6.2).

    Args:
        plane_channels: Features looked up at a point.
        hidden_width: Width of every MLP's hidden layer.
        num_features: Colour features; the first three are RGB.
        num_classes: Label classes K.
        beta: Initial sharpness length of SDF -> density, world units.
        learn_beta: Make beta a parameter; published weights hold it as a buffer.
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
        learn_beta: bool = False,
        with_local_sdfs: bool = True,
    ):
        super().__init__()
        self.color_head = make_mlp(plane_channels, hidden_width, num_features)
        self.sdf_head = make_mlp(plane_channels, hidden_width, 1)
        self.class_heads = make_class_mlps(
            plane_channels, hidden_width, num_classes, with_local_sdfs=with_local_sdfs
        )
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
        """Return the global and every class's signed distance."""
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
        """Turn global or class distances into density with this decoder's beta."""
        return sdf_to_density(sdf, self.beta)
