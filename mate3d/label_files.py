"""Read label maps from image files: by class colour or by label id, as docs/masks.md describes."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mate3d.errors import UserError
from mate3d.image_errors import DECODING_ERRORS
from mate3d.label_colors import Color, find_similar, look_up_colors
from mate3d.labels import LabelSet, get_label_set, label_set_names

_NUMBER_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F")
_COLOR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX")
_LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "AVIF")
_HELP = "docs/masks.md has the colours and how to save them"
# Share of border pixels with ids between those of their neighbours: at most 0.01 in drawn masks,
# 0.03 to 0.3 after resizing with interpolation.
_MAX_IN_BETWEEN = 0.03

_logger = logging.getLogger(__name__)


def load_label_map(
    path: str | Path,
    label_set: LabelSet,
    *,
    painted: bool = False,
    snap: bool = False,
    say: Callable[[str], None] = _logger.debug,
) -> np.ndarray:  # [H, W] uint8
    """Read a mask: an image of class colours, or of label ids.

    A palette is read by its colours, and by its indices only if none of its colours is or resembles
    a class's. Images that are all grey hold ids. Transparent pixels are background.

    Args:
        path: File, or an open file whose text is its name.
        painted: A person painted it for one edit: refuse what is only probable.
        snap: Assign colours that JPEG or anti-aliasing mixed to one of the classes beside them.
        say: Gets a line about each way in which the result differs from the file.

    Raises:
        UserError: If the file is missing or unreadable, contains unknown ids or colours, or can be
            understood in several ways.
    """
    image, what = open_mask(path), f"mask {path}"
    is_plain_grey = image.mode == "L" and "transparency" not in image.info and not painted
    if is_plain_grey or has_own_palette(image, label_set.palette):
        return _ids_of_numbers(np.array(image), image, label_set, what)
    pixels, alpha = read_pixels(image, label_set.palette)
    num_partial = int(((alpha > 0) & (alpha < 255)).sum())
    if num_partial and not snap:
        hint = ", or set mask_snap=true" if painted else ""
        raise UserError(
            f"{what} has {num_partial} half-transparent pixels; paint and erase with hard edges"
            f"{hint} ({_HELP})"
        )
    if pixels.ndim == 2:
        label_map = _ids_of_numbers(pixels, image, label_set, what)
        if painted:
            _refuse_doubtful_ids(label_map, image, what)
    else:
        label_map = _ids_of_colors(pixels, label_set, what, painted=painted, snap=snap, say=say)
        _check_palette(image, label_set, what)
    num_clear = int((alpha < 128).sum())
    if num_clear:
        say(f"{what}: {num_clear} of {alpha.size} pixels are transparent: background")
    return label_map


def open_mask(path: str | Path) -> Image.Image:
    """Open an image that can be a mask; `info["is_lossy"]` tells whether its format changes ids.

    Raises:
        UserError: If the file is missing or unreadable or of another mode.
    """
    try:
        with Image.open(path) as image:
            image.info["is_lossy"] = image.format in _LOSSY_FORMATS
            if image.format == "WEBP":
                image.fp.seek(0)
                image.info["is_lossy"] = b"VP8L" not in image.fp.read()
            image.load()
    except FileNotFoundError:
        raise UserError(f"mask not found: {path}") from None
    except DECODING_ERRORS as error:
        raise UserError(f"mask {path} is not a readable image: {error}") from None
    if image.mode not in (*_NUMBER_MODES, *_COLOR_MODES):
        raise UserError(
            f"mask {path} has mode {image.mode}; use a PNG with a palette, RGB or grey ({_HELP})"
        )
    return image


def has_own_palette(image: Image.Image, palette: Sequence[Color]) -> bool:
    """Return whether the indices of classes have the colours of classes, as in our own files."""
    if image.mode != "P" or "transparency" in image.info:
        return False
    num_used = int(np.asarray(image).max(initial=0)) + 1
    own = bytes(value for color in palette[:num_used] for value in color)
    return image.palette.palette[: len(own)] == own


def read_pixels(
    image: Image.Image,
    palette: Sequence[Color],
) -> tuple[np.ndarray, np.ndarray]:  # [H, W] or [H, W, 3], [H, W] uint8
    """Return what the pixels store, numbers or colours, and their alpha.

    Transparent pixels get the number or colour of the first class.

    Args:
        palette: Colours of the classes; without any, indices are always numbers.
    """
    alpha = np.full(image.size[::-1], 255, dtype=np.uint8)
    if image.mode.endswith("A") or ("transparency" in image.info and image.mode[0] not in "IF"):
        alpha = np.array(image.convert("RGBA").getchannel("A"))
    is_shown = alpha >= 128
    if image.mode in _NUMBER_MODES:
        numbers = np.array(image.convert("L") if image.mode in ("1", "LA") else image)
        # 16 bits that were made from 8 repeat them.
        if numbers.max(initial=0) > 255 and not (numbers % 257).any():
            numbers = numbers // 257
    elif image.mode == "P" and (
        has_own_palette(image, palette) or not _shows_classes(image, is_shown, palette)
    ):
        numbers = np.array(image)
    else:
        colors = np.array(image.convert("RGB"))
        red, green, blue = np.moveaxis(colors, -1, 0)
        if (((red != green) | (red != blue)) & is_shown).any():
            colors[~is_shown] = palette[0] if palette else 0
            return colors, alpha
        numbers = red.copy()
    numbers[~is_shown] = 0
    return numbers, alpha


def _shows_classes(
    image: Image.Image,
    is_shown: np.ndarray,  # [H, W] bool
    palette: Sequence[Color],
) -> bool:
    """Return whether the colours of a stored palette say what its indices mean.

    They do not in an even grey ramp, or if none resembles a class's (black for 0 is common).
    """
    used = np.unique(np.asarray(image)[is_shown]).astype(int)
    stored = np.array(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
    if not palette or not used.size or used[-1] >= len(stored):
        return False
    ramp = stored[: used[-1] + 1].astype(int)
    if (ramp == ramp[:, :1]).all():
        steps = np.diff(ramp[:, 0])
        return len(steps) < 2 or ramp[0, 0] > 0 or steps.min() < 1 or np.ptp(steps) > 1
    ids, is_similar = find_similar(stored[used], palette, 1 / 8)
    return bool((is_similar & ((used > 0) | (ids > 0))).any())


def _ids_of_numbers(
    numbers: np.ndarray,  # [H, W]
    image: Image.Image,
    label_set: LabelSet,
    what: str,
) -> np.ndarray:  # [H, W] uint8
    if image.info["is_lossy"]:
        raise UserError(f"{what} holds grey values, which {image.format} changes; save it as PNG")
    if numbers.dtype == np.uint8 and numbers.max(initial=0) < label_set.num_classes:
        return numbers
    is_known = np.isin(numbers, range(label_set.num_classes))
    if is_known.all():
        return numbers.astype(np.uint8)
    allowed = f"{label_set.name} allows 0..{label_set.num_classes - 1}; {_HELP}"
    levels = np.unique(numbers)
    factor = int(np.gcd.reduce(levels.astype(np.int64)))
    if len(levels) > 2 and factor > 1 and levels[-1] < factor * label_set.num_classes:
        raise UserError(f"{what} holds label ids times {factor}; divide by {factor} ({allowed})")
    unknown = np.unique(numbers[~is_known])[:8].tolist()
    raise UserError(f"{what} contains unknown ids {unknown} ({allowed})")


def _refuse_doubtful_ids(
    label_map: np.ndarray,  # [H, W] uint8
    image: Image.Image,
    what: str,
) -> None:
    """Refuse indices of a colourful palette that is not the set's, and interpolated ids."""
    from mate3d.label_borders import find_boundaries, find_in_between

    if image.mode == "P" and np.ptp(np.asarray(image.convert("RGB")), axis=-1).any():
        raise UserError(
            f"{what} has a palette without the label set's colours, so its numbers may mean "
            f"anything; save it in these colours or as grey label ids ({_HELP})"
        )
    num_between = int(find_in_between(label_map).sum())
    if num_between > _MAX_IN_BETWEEN * find_boundaries(label_map).sum():
        raise UserError(
            f"{what} has {num_between} pixels with ids between those of their neighbours, as from "
            f"resizing or anti-aliasing; resize without interpolation ({_HELP})"
        )


def _ids_of_colors(
    colors: np.ndarray,  # [H, W, 3] uint8
    label_set: LabelSet,
    what: str,
    *,
    painted: bool,
    snap: bool,
    say: Callable[[str], None],
) -> np.ndarray:  # [H, W] uint8
    label_map, is_known = look_up_colors(colors, label_set.palette)
    if is_known.all():
        return label_map
    from mate3d.label_borders import snap_colors

    snapped = snap_colors(colors, label_set.palette) if painted else None
    if snap and snapped is not None:
        num_snapped = int((~is_known | (snapped != label_map)).sum())
        say(f"{what}: snapped {num_snapped} of {is_known.size} pixels to a class beside them")
        return snapped
    unknown, counts = np.unique(colors[~is_known], axis=0, return_counts=True)
    color = tuple(unknown[counts.argmax()].tolist())
    advice = (
        "use its colours or label ids"
        if snapped is None
        else "JPEG or anti-aliasing mixed them: paint with hard edges and save as PNG, or set "
        "mask_snap=true"
    )
    raise UserError(
        f"{what} contains {len(unknown)} colour(s) not in {label_set.name}, most often {color} in "
        f"{counts.max()} of {is_known.size} pixels; {advice} ({_HELP})"
    )


def _check_palette(image: Image.Image, label_set: LabelSet, what: str) -> None:
    """Refuse the palette of another label set: was the mask coloured by name or by number?"""
    stored = bytes(image.getpalette("RGB") or []) if image.mode == "P" else b""
    others = [
        one
        for one in map(get_label_set, label_set_names())
        if one.palette != label_set.palette[: one.num_classes]
        and stored.startswith(bytes(value for color in one.palette for value in color))
    ]
    if others:
        name = max(others, key=lambda one: one.num_classes).name
        raise UserError(
            f"{what} has the palette of {name}, so its numbers and its colours are different "
            f"classes of {label_set.name}; save it as grey label ids or as RGB ({_HELP})"
        )
