"""Pure compositing along rays: density and depths -> weights -> values (Max 1995)."""

from typing import Literal

import torch
from torch import Tensor

DensityActivation = Literal["identity", "softplus_shifted"]


def interval_weights(
    density: Tensor,  # [B, R, S, 1], per world unit
    depths: Tensor,  # [B, R, S, 1], ascending
    activation: DensityActivation = "identity",
) -> Tensor:  # [B, R, S - 1, 1]
    """Return the compositing weight of each interval between neighbouring samples.

    Args:
        density: Volume density at the samples; an interval takes the mean of its ends. At least 0
            for "identity"; raw densities of any sign for "softplus_shifted".
        depths: Distances along the ray in world units.
        activation: "identity" is the physical form. "softplus_shifted" is what published weights
            were trained with, softplus(density - 1): even empty space absorbs 0.313 per unit
            length and density saturates near 9 (spec 6.4).
    """
    absorption = (density[:, :, 1:] + density[:, :, :-1]) / 2
    if activation == "softplus_shifted":
        absorption = torch.nn.functional.softplus(absorption - 1)
    alpha = 1 - torch.exp(-absorption * (depths[:, :, 1:] - depths[:, :, :-1]))
    survival = torch.cat([torch.ones_like(alpha[:, :, :1]), 1 - alpha + 1e-10], dim=2)
    return alpha * survival.cumprod(dim=2)[:, :, :-1]


def composite(
    values: Tensor,  # [B, R, S, C]
    weights: Tensor,  # [B, R, S - 1, 1]
) -> Tensor:  # [B, R, C]
    """Integrate values along rays by the midpoint rule."""
    # Summing shifted weights equals averaging neighbouring values, without making the average.
    return (sample_weights(weights).transpose(2, 3) @ values).squeeze(2)


def sample_weights(
    weights: Tensor,  # [B, R, S - 1, 1]
) -> Tensor:  # [B, R, S, 1]
    """Return each sample's share of the intervals on both its sides."""
    padded = torch.nn.functional.pad(weights, (0, 0, 1, 1))
    return (padded[:, :, 1:] + padded[:, :, :-1]) / 2


def expected_depth(
    depths: Tensor,  # [B, R, S, 1]
    weights: Tensor,  # [B, R, S - 1, 1]
) -> Tensor:  # [B, R, 1]
    """Return the weighted mean depth, clamped to the range of all depths; farthest where empty."""
    opacity = weights.sum(dim=2)
    depth = (composite(depths, weights) / opacity).nan_to_num(float("inf"))
    return depth.clamp(depths.min(), depths.max())
