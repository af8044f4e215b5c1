"""Look up the classes of a mask's colours."""

from collections.abc import Sequence

import numpy as np

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


def find_similar(
    colors: np.ndarray,  # [N, 3] in 0..255
    palette: Sequence[Color],
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:  # ids [N] uint8, is_similar [N] bool
    """Return the class with the most similar colour, and whether it is similar enough.

    Args:
        tolerance: Largest difference in a channel, as a fraction of that of the two most similar
            classes.
    """
    known = np.array(palette, dtype=np.float32)
    between = np.abs(known[:, None] - known).max(axis=-1)
    apart = between[~np.eye(len(known), dtype=bool)].min(initial=255)
    distances = np.abs(colors[:, None].astype(np.float32) - known).max(axis=-1)
    return distances.argmin(axis=1).astype(np.uint8), distances.min(axis=1) <= tolerance * apart


def _color_codes(
    colors: np.ndarray,  # [..., 3] uint8
) -> np.ndarray:  # [...] int32
    red, green, blue = np.moveaxis(colors.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue
