"""Bilinear resizing with half-pixel centres."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops.upfirdn2d import downsample2d, upsample2d


def resize_antialias(
    x: Tensor,  # [B, C, H, W]
    size: int,
) -> Tensor:  # [B, C, size, size]
    """Resize to a square, bilinear, averaging over the source pixels covered when shrinking."""
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=True)


def filtered_resize(
    x: Tensor,  # [B, C, H, W]
    size: int,
    filter: Tensor,  # [4, 4], made by `setup_filter`
    *,
    filter_mode: Literal["antialiased", "classic", "none"] | float = "antialiased",
) -> Tensor:  # [B, C, size, size]
    """Resize to a square, bilinear, with one of the low-pass filters of published discriminators.

    Args:
        filter: Used by "classic" only.
        filter_mode: "none" does not filter; "classic" resizes an image of twice the resolution
            and halves the result; a number is the share of the antialiased image, the rest being
            unfiltered.
    """
    if filter_mode == "antialiased":
        return resize_antialias(x, size)
    if filter_mode == "classic":
        # One more pixel on each side is resized and then cropped by the negative padding.
        doubled = _resize_plain(upsample2d(x, filter), 2 * size + 2)
        return downsample2d(doubled, filter, padding=-1)
    plain = _resize_plain(x, size)
    if filter_mode == "none":
        return plain
    return filter_mode * resize_antialias(x, size) + (1 - filter_mode) * plain


def _resize_plain(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
