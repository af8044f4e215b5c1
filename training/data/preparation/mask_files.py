"""Reading of external masks: ids as grey or palette values, or palette colours."""

from pathlib import Path

import numpy as np
from PIL import Image

from mate3d.errors import UserError
from mate3d.image_errors import DECODING_ERRORS
from mate3d.label_colors import look_up_colors, look_up_indices
from mate3d.labels import LabelSet, check_known_ids

_GREY_MODES = ("L", "P")
_COLOR_MODES = ("RGB", "RGBA")


def read_mask_file(
    path: Path,
    label_set: LabelSet,
) -> np.ndarray:  # [H, W] uint8
    """Read a mask file as label ids.

    Grey values and palette indices are ids, as are the values of an RGB file that is all grey.
    Other RGB files must contain only colours of the set's palette.

    Raises:
        UserError: If the file is unreadable, of another kind, or contains unknown ids or colours,
            or if its palette shows that the indices are not ids of this set.
    """
    image = open_mask(path)
    if image.mode in _COLOR_MODES:
        label_map = _ids_of_colors(np.asarray(image.convert("RGB")), label_set, path)
    else:
        label_map = np.array(image, dtype=np.uint8)
    check_known_ids(label_map, label_set, f"mask {path}")
    if image.mode == "P":
        _check_palette(image, label_set, path)
    return label_map


def read_part(
    path: Path,
) -> np.ndarray:  # [H, W] bool
    """Read the file of one part, which is 255 (or white) inside and 0 outside.

    Raises:
        UserError: If the file is unreadable or of another kind.
    """
    return np.asarray(open_mask(path).convert("L")) > 127


def open_mask(path: Path) -> Image.Image:
    """Open an 8-bit image that can be a mask.

    Raises:
        UserError: If the file is unreadable or of another mode.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except DECODING_ERRORS as error:
        raise UserError(f"mask {path} is not a readable image: {error}") from None
    if image.mode not in (*_GREY_MODES, *_COLOR_MODES):
        raise UserError(f"mask {path} has mode {image.mode}; use an 8-bit grey, palette or RGB PNG")
    return image


def _ids_of_colors(
    pixels: np.ndarray,  # [H, W, 3] uint8
    label_set: LabelSet,
    path: Path,
) -> np.ndarray:  # [H, W] uint8
    if (pixels == pixels[..., :1]).all():
        return pixels[..., 0].copy()
    ids, is_known = look_up_colors(pixels, label_set.palette)
    if not is_known.all():
        unknown, counts = np.unique(pixels[~is_known], axis=0, return_counts=True)
        color = tuple(unknown[counts.argmax()].tolist())
        raise UserError(
            f"mask {path} contains {len(unknown)} colour(s) not in {label_set.name}, most often "
            f"{color} in {counts.max()} of {ids.size} pixels; use its palette or label ids"
        )
    return ids


def _check_palette(image: Image.Image, label_set: LabelSet, path: Path) -> None:
    """Reject indices that only number the colours, as when RGB is reduced to a palette."""
    places = look_up_indices(image, label_set.palette)
    if None in places.values():
        return
    for id_, meant in places.items():
        if meant != id_:
            raise UserError(
                f"mask {path} is ambiguous: index {id_} is {label_set.class_names[id_]} in "
                f"{label_set.name}, but has the colour of {label_set.class_names[meant]}; save it "
                "as grey label ids or as RGB"
            )
