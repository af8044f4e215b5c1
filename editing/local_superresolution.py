"""Super-resolution where an edit can show: a window is computed, the rest is the source's.

The networks are convolutions without statistics over the picture, so that a window with enough
pixels around it gives what the whole picture would.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from mate3d.network.synthesis import SuperResolution

# Input pixels to each side that an output pixel of a block depends on: one of the up-sampling
# convolution, one of its filter, and one of the second convolution, which has half if up-sampled.
_BLOCK_RADIUS = 3


@dataclass(frozen=True)
class Window:
    """The rectangle of a picture that an edit can change, as rows and columns.

    Args:
        context: What is needed of the input to compute it.
        changed: The rectangle in the output.
        within: The same in the output for `context` alone.
    """

    context: tuple[slice, ...]
    changed: tuple[slice, ...]
    within: tuple[slice, ...]


def find_window(
    network: SuperResolution,
    index: Tensor,  # [M], at least one
    side: int,
) -> Window | None:
    """Return the window that some rays of a raw render can change.

    Args:
        network: The super-resolution.
        index: These rays, of `side` x `side` listed row by row.
        side: Of the raw render.

    Returns:
        None where a window would not give what the whole picture does: noise has its place.
    """
    if network.noise_mode != "none":
        return None
    axes = (index.div(side, rounding_mode="floor"), index % side)
    spans = [_spans(network, int(axis.min()), int(axis.max()) + 1, side) for axis in axes]
    return Window(*zip(*spans, strict=True))


def enlarge_window(
    network: SuperResolution,
    window: Window,
    image_raw: Tensor,  # [1, image_channels, h, w]
    feature_image: Tensor,  # [1, feature_channels, h, w]
    ws: Tensor,  # [1, L, w_dim]
) -> Tensor:  # [1, image_channels, height, width] of the window's changed part
    """Compute what the window can change of the full-size image."""
    image, x, style_rows = network.prepare(image_raw, feature_image, ws)
    context = (..., *window.context)
    x, images = x[context], {"image": image[context]}
    for block in network.blocks:
        x, images = block(x, images, style_rows, network.noise_mode)
    return images["image"][(..., *window.within)]


def paste(
    image: Tensor,  # [1, C, H, W]
    window: Window,
    part: Tensor,  # [1, C, height, width]
) -> Tensor:  # [1, C, H, W]
    """Return a full-size image with the part that `enlarge_window` computed."""
    pasted = image.clone()
    pasted[(..., *window.changed)] = part
    return pasted


def _spans(network: SuperResolution, low: int, high: int, side: int) -> tuple[slice, slice, slice]:
    """Return a window's three slices along an axis whose raw pixels `low` to `high` change."""
    size, scale = network.input_resolution, network.input_resolution / side
    if size != side:
        # Resizing mixes each pixel with its neighbours, of the coarser of the two grids.
        low, high = math.floor((low - 1) * scale) - 1, math.ceil((high + 1) * scale) + 1
    radius, enlarged = 0.0, 1
    for block in network.blocks:
        radius += _BLOCK_RADIUS / enlarged
        enlarged *= block.up
    radius = math.ceil(radius)
    first, last = max(low - radius, 0), min(high + radius, size)
    start, stop = max(low - 2 * radius, 0), min(high + 2 * radius, size)
    changed = slice(enlarged * first, enlarged * last)
    within = slice(enlarged * (first - start), enlarged * (last - start))
    return slice(start, stop), changed, within
