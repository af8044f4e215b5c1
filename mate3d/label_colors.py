"""Look up the classes of a mask's colours."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

Color = tuple[int, int, int]


def look_up_colors(
    colors: np.ndarray,  # [H, W, 3] uint8
    palette: Sequence[Color],
) -> tuple[np.ndarray, np.ndarray]:  # ids [H, W] uint8, is_known [H, W] bool
    """Return the palette index of each pixel's colour, and whether the palette contains it.

    The ids of unknown colours are meaningless.
    """
    codes = _color_codes(colors)
    palette_codes = _color_codes(np.array(palette, dtype=np.uint8))
    order = np.argsort(palette_codes)
    ids = order[np.searchsorted(palette_codes, codes, sorter=order).clip(max=len(order) - 1)]
    return ids.astype(np.uint8), palette_codes[ids] == codes


def look_up_indices(
    image: Image.Image,  # of mode P
    palette: Sequence[Color],
) -> dict[int, int | None]:
    """Map each index in use to the position of its colour in `palette`; None if not found.

    A file's own palette defines its indices only if all of their colours are found.
    """
    stored = image.getpalette("RGB") or []
    places = {tuple(color): place for place, color in enumerate(palette)}
    used = np.flatnonzero(np.bincount(np.asarray(image).ravel(), minlength=256))
    return {index: places.get(tuple(stored[3 * index : 3 * index + 3])) for index in used.tolist()}


def _color_codes(
    colors: np.ndarray,  # [..., 3] uint8
) -> np.ndarray:  # [...] int64
    return colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
