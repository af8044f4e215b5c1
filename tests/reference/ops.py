"""What golden cases recorded of the published code and the packages have no use for."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mate3d.rendering.triplane import project_points
from torch_utils.ops.resize import resize_antialias
from torch_utils.ops.triplane_sample import triplane_sample
from torch_utils.ops.upfirdn2d import (
    downsample_padding,
    read_padding,
    upfirdn2d,
    upsample2d,
)

# Of each activation: the function of values and negative slope, and the default gain.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], float]] = {
    "linear": (lambda x, _: x, 1),
    "relu": (lambda x, _: F.relu(x), 2**0.5),
    "lrelu": (F.leaky_relu, 2**0.5),
    "tanh": (lambda x, _: torch.tanh(x), 1),
    "sigmoid": (lambda x, _: torch.sigmoid(x), 1),
    "elu": (lambda x, _: F.elu(x), 1),
    "selu": (lambda x, _: F.selu(x), 1),
    "softplus": (lambda x, _: F.softplus(x), 1),
    "swish": (lambda x, _: F.silu(x), 2**0.5),
}


def bias_act(
    x: Tensor,  # [..., C, ...]
    bias: Tensor | None = None,  # [C]
    *,
    dim: int = 1,
    activation: str,
    alpha: float = 0.2,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:  # as x
    """Compute the operation of that name with any activation, one step after the other."""
    function, own_gain = ACTIVATIONS[activation]
    if bias is not None:
        x = x + bias.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    y = function(x, alpha) * (own_gain if gain is None else gain)
    return y if clamp is None else y.clamp(-clamp, clamp)


def downsample2d(
    x: Tensor,  # [B, C, H, W]
    filter: Tensor,  # [h, w], or [w] for a separable filter
    *,
    down: int = 2,
    padding: int = 0,
    flip_filter: bool = False,
    impl: Literal["auto", "reference"] = "auto",
) -> Tensor:  # [B, C, H / down, W / down]
    """Shrink an image `down` times, up to the extra `padding`; constants keep their value."""
    pads = read_padding(padding).plus(downsample_padding(filter, down))
    return upfirdn2d(x, filter, down=down, padding=pads, flip_filter=flip_filter, impl=impl)


def filtered_resize(
    x: Tensor,  # [B, C, H, W]
    size: int,
    filter: Tensor,  # [4, 4]
    filter_mode: Literal["classic", "none"] | float,
) -> Tensor:  # [B, C, size, size]
    """Resize to a square, with one of the low-pass filters of published discriminators.

    Args:
        filter: Used by "classic" only, which resizes an image of twice the resolution and halves
            the result.
        filter_mode: A number is the share of the antialiased image, the rest being unfiltered.
    """
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


def look_up_each_plane(
    planes: Tensor,  # [B, 3, C, P, P]
    points: Tensor,  # [B, N, 3], world
    box_size: float,
    plane_layout: str,
    impl: Literal["auto", "reference"] = "auto",
) -> Tensor:  # [B, 3, N, C]
    """Return the look-up of each plane: three times the mean where the others are zero."""
    plane_points = project_points(points * (2 / box_size), plane_layout)
    masks = 3 * torch.eye(3).to(planes).view(3, 1, 3, 1, 1, 1)
    return torch.stack(
        [triplane_sample(planes * mask, plane_points, impl=impl) for mask in masks], dim=1
    )


def intersect_box(
    ray_origins: Tensor,  # [..., 3]
    ray_directions: Tensor,  # [..., 3]
    box_size: float,
) -> tuple[Tensor, Tensor]:  # near [..., 1], far [..., 1]
    """Return entry and exit distances of a cube centred at the origin; -1 and -2 mark a miss."""
    inverse = 1 / ray_directions
    half = box_size / 2
    first, second = (-half - ray_origins) * inverse, (half - ray_origins) * inverse
    near = torch.minimum(first, second).amax(dim=-1, keepdim=True)
    far = torch.maximum(first, second).amin(dim=-1, keepdim=True)
    miss = near > far
    return near.masked_fill(miss, -1.0), far.masked_fill(miss, -2.0)
