"""Look up the classes of a mask's colours, and the colours of classes."""

from collections.abc import Mapping, Sequence
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


def load_colors(text: str, option: str) -> dict[str, Color]:
    """Return colours by class name: a label set's, or those of a YAML file, `name: [r, g, b]`.

    Args:
        text: Name of the label set, or path of the file.
        option: Option that names it.

    Raises:
        UserError: If there is no such label set or file, or the file holds something else.
    """
    if text in label_set_names():
        label_set = get_label_set(text)
        return dict(zip(label_set.class_names, label_set.palette, strict=True))
    if not Path(text).is_file():
        names = ", ".join(label_set_names())
        raise UserError(
            f"{option} not found: {text}; use a YAML file of colours, or one of: {names}"
        )
    try:
        content = yaml.safe_load(Path(text).read_text(encoding="utf-8"))
        colors = {str(name): tuple(map(int, color)) for name, color in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        colors = {}
    is_color = (len(c) == 3 and 0 <= min(c) and max(c) <= 255 for c in colors.values())
    if not colors or not all(is_color):
        raise UserError(f"{option}={text}; use a YAML file of lines such as ears: [76, 153, 0]")
    return colors


def palette_of(label_set: LabelSet, colors: Mapping[str, Color] | None) -> Sequence[Color]:
    """Return the colour of each class, by name; None are the label set's own colours.

    Raises:
        UserError: If a class has no colour.
    """
    if colors is None:
        return label_set.palette
    if lacking := [name for name in label_set.class_names if name not in colors]:
        raise UserError(
            f"guidance.palette has no colour for {', '.join(lacking)}, which the generator shows"
            f" (label set {label_set.name})"
        )
    return [colors[name] for name in label_set.class_names]


def _color_codes(
    colors: np.ndarray,  # [..., 3] uint8
) -> np.ndarray:  # [...] int32
    red, green, blue = np.moveaxis(colors.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue
