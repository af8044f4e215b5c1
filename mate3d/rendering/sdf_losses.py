"""Terms that keep distances distances, and the whole the union of its parts."""

import torch
from torch import Tensor
from torch.nn import functional as F


def eikonal_loss(
    gradients: Tensor,  # [..., 3], of an SDF with respect to world points
) -> Tensor:  # scalar
    """Return the mean of (|grad d| - 1)^2; undefined gradients count as zero (spec 8.3)."""
    squared = torch.nan_to_num(gradients, nan=0.0).square().sum(dim=-1)
    # The root has no derivative at zero.
    return ((squared + 1e-12).sqrt() - 1).square().mean()


def sdf_consistency_loss(
    sdf: Tensor,  # [B, N, 1]
    class_sdf: Tensor,  # [B, N, K]
    *,
    with_detached_whole: bool = True,
) -> Tensor:  # scalar
    """Return MSE between max(d, 0) and min_k max(d_k, 0): outside, the parts' union is the whole.

    Args:
        sdf: The whole head.
        class_sdf: Its parts.
        with_detached_whole: Train only the parts, as released (`semantic_density_detach`).
    """
    whole = sdf.clamp(min=0)
    union = class_sdf.clamp(min=0).amin(dim=-1, keepdim=True)
    return F.mse_loss(union, whole.detach() if with_detached_whole else whole)
