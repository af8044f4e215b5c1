"""Plain formulas of the operations, and what golden cases recorded that the packages do not use."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mate3d.rendering.triplane import project_points
from torch_utils.ops import resample as fast
from torch_utils.ops.resample import resize_antialias
from torch_utils.ops.triplane_sample import sum_dtype
from torch_utils.ops.triplane_sample import triplane_sample as fast_triplane_sample

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


def upfirdn2d(
    x: Tensor,  # [B, C, H, W]
    filter: Tensor | None,  # [h, w], or [w] for a separable filter
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:  # [B, C, H', W']
    """Compute `upfirdn2d` step by step, as its definition reads."""
    (up_x, up_y), (down_x, down_y) = (
        (factor, factor) if isinstance(factor, int) else factor for factor in (up, down)
    )
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height, 1, width, 1)
    x = F.pad(x, [0, up_x - 1, 0, 0, 0, up_y - 1])
    x = x.reshape(batch, channels, height * up_y, width * up_x)
    x = F.pad(x, list(fast.read_padding(padding)))
    kernel = x.new_ones(1, 1) if filter is None else filter.to(x)
    kernel = (kernel.outer(kernel) if kernel.ndim == 1 else kernel) * gain
    if not flip_filter:
        kernel = kernel.flip([0, 1])
    x = F.conv2d(x, kernel.expand(channels, 1, -1, -1), groups=channels)
    return x[:, :, ::down_y, ::down_x]


def triplane_sample(
    planes: Tensor,  # [B, 3, C, H, W]
    plane_points: Tensor,  # [B, 3, N, 2]
) -> Tensor:  # [B, N, C]
    """Compute `triplane_sample` by one gather for each of the four pixels around a point."""
    height, width = planes.shape[-2:]
    plane_points = plane_points.to(sum_dtype(planes.dtype))
    size = plane_points.new_tensor([width, height])
    pixels = ((plane_points + 1) * size - 1) / 2
    corner = pixels.detach().floor()
    fraction = pixels - corner
    table = planes.flatten(3).transpose(2, 3).to(plane_points.dtype)  # [B, 3, H * W, C]
    features = torch.zeros_like(table[:, :, :1])
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = corner[..., 0] + dx, corner[..., 1] + dy
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = (row * width + column).where(inside, 0).long()
            weight_x = fraction[..., 0] if dx else 1 - fraction[..., 0]
            weight_y = fraction[..., 1] if dy else 1 - fraction[..., 1]
            values = table.gather(2, index[..., None].expand(-1, -1, -1, table.shape[-1]))
            features = features + values * (weight_x * weight_y * inside)[..., None]
    return features.mean(1).to(planes.dtype)


def downsample2d(
    x: Tensor,  # [B, C, H, W]
    filter: Tensor,  # [h, w], or [w] for a separable filter
    *,
    down: int = 2,
    padding: int = 0,
    flip_filter: bool = False,
) -> Tensor:  # [B, C, H / down, W / down]
    """Shrink an image `down` times, up to the extra `padding`; constants keep their value."""
    pads = fast.read_padding(padding).plus(fast.downsample_padding(filter, down))
    return fast.upfirdn2d(x, filter, down=down, padding=pads, flip_filter=flip_filter)


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
        doubled = _resize_plain(fast.upsample2d(x, filter), 2 * size + 2)
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
    look_up: Callable[[Tensor, Tensor], Tensor] = fast_triplane_sample,
) -> Tensor:  # [B, 3, N, C]
    """Return the look-up of each plane: three times the mean where the others are zero."""
    plane_points = project_points(points * (2 / box_size), plane_layout)
    masks = 3 * torch.eye(3).to(planes).view(3, 1, 3, 1, 1, 1)
    return torch.stack([look_up(planes * mask, plane_points) for mask in masks], dim=1)


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
