"""Bilinear look-up in three feature planes, differentiable twice."""

from typing import Literal

import torch
from torch import Tensor

from torch_utils.ops._dispatch import Implementation, wants_reference


def triplane_sample(
    planes: Tensor,  # [B, 3, C, H, W]
    plane_points: Tensor,  # [B, 3, N, 2]
    *,
    reduce: Literal["mean", "none"] = "mean",
    impl: Implementation = "auto",
) -> Tensor:  # [B, N, C], or [B, 3, N, C] if reduce is "none"
    """Look up features at points projected on three planes.

    Values between the pixel centres are bilinear, values outside the planes zero.

    Args:
        planes: Feature planes.
        plane_points: (horizontal, vertical) position of each point on each plane; -1 and 1 are
            the outer edges of the border pixels.
        reduce: "mean" averages the three planes.
        impl: "reference" forces `triplane_sample_reference`.
    """
    wants_reference(impl)
    return triplane_sample_reference(planes, plane_points, reduce=reduce)


def triplane_sample_reference(
    planes: Tensor,  # [B, 3, C, H, W]
    plane_points: Tensor,  # [B, 3, N, 2]
    *,
    reduce: Literal["mean", "none"] = "mean",
) -> Tensor:  # [B, N, C], or [B, 3, N, C] if reduce is "none"
    """Compute `triplane_sample` by one gather for each of the four pixels around a point."""
    height, width = planes.shape[-2:]
    size = torch.tensor([width, height], dtype=planes.dtype, device=planes.device)
    pixels = ((plane_points + 1) * size - 1) / 2
    corner = pixels.detach().floor()
    fraction = pixels - corner
    table = planes.flatten(3).transpose(2, 3)  # [B, 3, H * W, C]
    features = 0
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = (corner + torch.tensor([dx, dy]).to(corner)).unbind(-1)
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = (row * width + column).where(inside, 0).long()
            weight = (fraction[..., 0] if dx else 1 - fraction[..., 0]) * (
                fraction[..., 1] if dy else 1 - fraction[..., 1]
            )
            values = table.gather(2, index[..., None].expand(-1, -1, -1, table.shape[-1]))
            features = features + values * (weight * inside)[..., None]
    return features.mean(1) if reduce == "mean" else features
