"""Super-resolution where an edit can show: a window is computed, the rest is the source's.

The networks are convolutions without statistics over the picture, so that a window with enough
pixels around it gives what the whole picture would.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from mate3d.network.superresolution import SuperResolution

# Input pixels to each side that an output pixel of a block depends on: one of the up-sampling
# convolution, one of its filter, and one of the second convolution, which has half if up-sampled.
_BLOCK_RADIUS = 3


@dataclass(frozen=True)
class Span:
    """Pixels of one axis, in input pixels of a super-resolution.

    Args:
        first: First that an edit can change.
        last: One past the last.
        context_first: First that is needed to compute them.
        context_last: One past the last.
    """

    first: int
    last: int
    context_first: int
    context_last: int

    @property
    def context(self) -> slice:
        """What is needed, of the input."""
        return slice(self.context_first, self.context_last)

    def changed(self, scale: int) -> slice:
        """What changes, of an output `scale` times as large."""
        return slice(scale * self.first, scale * self.last)

    def changed_in_context(self, scale: int) -> slice:
        """What changes, of the output for `context` alone."""
        start = scale * self.context_first
        return slice(scale * self.first - start, scale * self.last - start)


@dataclass(frozen=True)
class Window:
    """The rectangle of a picture that an edit can change."""

    rows: Span
    columns: Span


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
    rows, columns = index.div(side, rounding_mode="floor"), index % side
    return Window(*(_span(network, axis, side) for axis in (rows, columns)))


def enlarge_window(
    network: SuperResolution,
    window: Window,
    image_raw: Tensor,  # [1, image_channels, h, w]
    feature_image: Tensor,  # [1, feature_channels, h, w]
    ws: Tensor,  # [1, L, w_dim]
) -> Tensor:  # [1, image_channels, height, width] of the window's changed part
    """Compute what the window can change of the full-size image."""
    image, x, style_rows = network.prepare(image_raw, feature_image, ws)
    context = (..., window.rows.context, window.columns.context)
    x, images = x[context], {"image": image[context]}
    for block in network.blocks:
        x, images = block(x, images, style_rows, network.noise_mode)
    scale = _scale(network)
    return images["image"][
        ..., window.rows.changed_in_context(scale), window.columns.changed_in_context(scale)
    ]


def paste(
    image: Tensor,  # [1, C, H, W]
    network: SuperResolution,
    window: Window,
    part: Tensor,  # [1, C, height, width]
) -> Tensor:  # [1, C, H, W]
    """Return a full-size image with the part that `enlarge_window` computed."""
    scale = _scale(network)
    pasted = image.clone()
    pasted[..., window.rows.changed(scale), window.columns.changed(scale)] = part
    return pasted


def _scale(network: SuperResolution) -> int:
    return math.prod(block.up for block in network.blocks)


def _span(network: SuperResolution, axis: Tensor, side: int) -> Span:
    size, scale = network.input_resolution, network.input_resolution / side
    low, high = int(axis.min()), int(axis.max()) + 1
    if size != side:
        # Resizing mixes each pixel with its neighbours, of the coarser of the two grids.
        low, high = math.floor((low - 1) * scale) - 1, math.ceil((high + 1) * scale) + 1
    radius, enlarged = 0.0, 1
    for block in network.blocks:
        radius += _BLOCK_RADIUS / enlarged
        enlarged *= block.up
    radius = math.ceil(radius)
    bounds = [low - radius, high + radius, low - 2 * radius, high + 2 * radius]
    return Span(*(min(max(bound, 0), size) for bound in bounds))
