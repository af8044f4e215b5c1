"""Blur of images by a separable bell curve."""

import math

import torch
from torch import Tensor

from torch_utils.ops.resample import filter2d


def blur_taps(sigma: float) -> Tensor:  # [2 * floor(3 * sigma) + 1]
    """Return the normalised taps 2^-(i / sigma)^2 for |i| <= 3 sigma.

    Args:
        sigma: Distance at which a tap is half of the central one, in pixels; positive.
    """
    radius = math.floor(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    taps = torch.exp2(-((offsets / sigma) ** 2))
    return taps / taps.sum()


def blur_image(
    x: Tensor,  # [B, C, H, W]
    sigma: float,
) -> Tensor:  # [B, C, H, W]
    """Blur an image; outside of it is zero, that is mid-grey for images in [-1, 1].

    Args:
        sigma: Half-value distance of the kernel in pixels; below 1/3 nothing changes.
    """
    if math.floor(3 * sigma) < 1:
        return x
    return filter2d(x, blur_taps(sigma).to(x.device))
