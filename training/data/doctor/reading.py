"""Reading of image and mask files of any kind: ids, grey levels, colours, resized masks."""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from mate3d.errors import UserError
from mate3d.image_errors import DECODING_ERRORS
from mate3d.label_borders import snap_colors
from mate3d.label_colors import Color, look_up_colors
from mate3d.label_files import has_own_palette, read_pixels
from training.data.format import DatasetFiles

Content = TypeVar("Content")
# Remark on each fault of a file, by code.
Faults = dict[str, str]


def try_reading(
    files: DatasetFiles, file: str | None, read: Callable[[bytes], Content]
) -> tuple[Content | None, str]:
    """Return the result of `read` for a file, or None and the reason; (None, "") without a file."""
    if file is None:
        return None, ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(files.read(file)), ""
    except UnidentifiedImageError:
        return None, "unknown image format"
    except (UserError, *DECODING_ERRORS) as error:
        return None, " ".join(str(error).split())[:160] or type(error).__name__


def read_image(content: bytes) -> Image.Image:
    """Decode an image completely; raises one of `DECODING_ERRORS` if it is damaged."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
    return image


def read_mask(
    content: bytes, palette: Sequence[Color]
) -> tuple[np.ndarray, Faults]:  # [H, W] uint8
    """Decode a mask of any kind to ids, or to the single-channel values that represent them.

    Args:
        palette: Colours of the label set; empty if unknown.

    Returns:
        The values, and the faults of their storage. With "mask_useless" the values are meaningless.
    """
    image = read_image(content)
    values, faults = _read_values(image, palette)
    if image.format in ("JPEG", "MPO"):
        return values, {"mask_useless": "saved as JPEG"}
    return values, faults


def _read_values(image: Image.Image, palette: Sequence[Color]) -> tuple[np.ndarray, Faults]:
    pixels, alpha = read_pixels(image, palette)
    if pixels.ndim == 3:
        values, faults = _match_colors(pixels, palette)
        values[alpha < 128] = 0
        return values, faults
    values = pixels.round().clip(0, 255).astype(np.uint8)
    if image.mode == "P":
        return values, {} if has_own_palette(image, palette) else {"mask_palette": ""}
    return values, {} if image.mode in ("1", "L") else {"mask_format": f"mode {image.mode}"}


def _match_colors(
    colors: np.ndarray,  # [H, W, 3] uint8
    palette: Sequence[Color],
) -> tuple[np.ndarray, Faults]:
    nothing = np.zeros(colors.shape[:2], dtype=np.uint8), {"mask_useless": "unknown colours"}
    if not palette:
        return nothing
    values, is_sure = look_up_colors(colors, palette)
    if is_sure.all():
        return values, {"mask_colors": "colours"}
    swapped, is_sure_swapped = look_up_colors(colors[..., ::-1], palette)
    if is_sure_swapped.all():
        return swapped, {"mask_colors": "colours, red and blue swapped"}
    snapped = snap_colors(colors, palette)
    # Black and one common colour match many images, so partial matches need three classes.
    if snapped is None or len(np.unique(snapped)) < 3:
        return nothing
    return snapped, {"mask_colors": "colours, blurred along the borders"}
