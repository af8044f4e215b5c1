"""The gradient of a two-layer MLP with respect to its features, in closed form.

With features s, hidden values h = W1 s + b1 and distance d = w2 softplus(h) + b2, the gradient is
(w2 * sigmoid(h)) W1. Pulled back through a look-up in planes (`pull_back_to_points`) it becomes the
gradient at the points. Nothing here needs `create_graph`, so that a loss on gradients costs one
backward pass, not a backward pass through a backward pass.
"""

import torch
from torch import Tensor, nn


def feature_gradient(
    mlp: nn.Sequential,
    features: Tensor,  # [B, N, C]
) -> Tensor:  # [B, N, C]
    """Return the gradient of the first output of an MLP of `make_mlp`.

    It is differentiable with respect to features and weights.
    """
    first, _, second = mlp
    weight = first.scaled_weight()
    hidden = nn.functional.linear(features, weight, first.scaled_bias())
    return (torch.sigmoid(hidden) * second.scaled_weight()[0]) @ weight
