"""Look up the classes of a mask's colours, and the colours of classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from mate3d.errors import UserError
from mate3d.labels import LabelSet, get_label_set, label_set_names

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


def read_palette(text: str | None, label_set: LabelSet, option: str) -> Sequence[Color]:
    """Return the colours of classes in another label set, or in a file with `name: [r, g, b]`.

    Args:
        text: Name of the label set, or path of the YAML file; None are the classes' own colours.
        option: Option that names it, for messages.

    Raises:
        UserError: If there is no such label set or file, or it has no colour for a class.
    """
    if text is None:
        return label_set.palette
    if text in label_set_names():
        other = get_label_set(text)
        colors = dict(zip(other.class_names, other.palette, strict=True))
    else:
        try:
            colors = dict(yaml.safe_load(Path(text).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            names = ", ".join(label_set_names())
            reason = " ".join(str(error).split())
            advice = f"use a YAML file of colours, or one of: {names}"
            raise UserError(f"{option}={text} cannot be read: {reason}; {advice}") from None
    for name in label_set.class_names:
        color = colors.get(name)
        is_color = isinstance(color, list | tuple) and len(color) == 3
        if not is_color or not all(value in range(256) for value in color):
            raise UserError(
                f"{option}={text} has the colour {color} for {name} of {label_set.name}; give each"
                f" label three numbers of 0..255, such as {name}: [76, 153, 0]"
            )
    return [tuple(colors[name]) for name in label_set.class_names]


def _color_codes(
    colors: np.ndarray,  # [..., 3] uint8
) -> np.ndarray:  # [...] int32
    red, green, blue = np.moveaxis(colors.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue
