"""Reading of image and mask files of any kind: ids, grey levels, colours, resized masks."""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import binary_dilation, distance_transform_edt

from mate3d.errors import UserError
from mate3d.image_errors import DECODING_ERRORS
from mate3d.label_colors import Color, look_up_colors, look_up_indices
from training.data.format import DatasetFiles

Content = TypeVar("Content")
# Remark on each fault of a file, by code.
Faults = dict[str, str]

_MIN_SURE_SHARE = 0.6


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
    if image.mode == "P":
        return _read_palette_image(image, palette)
    if image.mode in ("1", "L"):
        return np.array(image.convert("L")), {}
    if image.mode.startswith(("I", "F")):
        wide = np.array(image).astype(np.float64)
        is_too_large = wide.max(initial=0) > 255
        values = (wide / 257 if is_too_large else wide).round().astype(np.uint8)
        return values, {"mask_format": f"mode {image.mode}"}
    colors = np.array(image.convert("RGB"))
    if (colors == colors[..., :1]).all():
        return np.ascontiguousarray(colors[..., 0]), {"mask_format": f"mode {image.mode}"}
    return _match_colors(colors, palette)


def _read_palette_image(image: Image.Image, palette: Sequence[Color]) -> tuple[np.ndarray, Faults]:
    values = np.array(image, dtype=np.uint8)
    places = look_up_indices(image, palette)
    if all(places[index] == index for index in places if index < len(palette)):
        return values, {}
    if None in places.values():
        return values, {"mask_palette": ""}
    table = np.zeros(256, dtype=np.uint8)
    table[list(places)] = list(places.values())
    return table[values], {"mask_colors": "palette in another order"}


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
    # Black and one common colour match many images, so partial matches need three classes.
    if is_sure.mean() >= _MIN_SURE_SHARE and len(np.unique(values[is_sure])) >= 3:
        values = _resolve_borders(colors, values, ~is_sure, palette)
        return values, {"mask_colors": "colours, blurred along the borders"}
    return nothing


def fill_from_nearest(
    values: np.ndarray,  # [H, W]
    is_unsure: np.ndarray,  # [H, W] bool
) -> np.ndarray:  # [H, W]
    """Replace each unsure pixel by the nearest sure one; unchanged if none is sure."""
    if is_unsure.all() or not is_unsure.any():
        return values.copy()
    indices = distance_transform_edt(is_unsure, return_distances=False, return_indices=True)
    return values[tuple(indices)]


def _resolve_borders(
    colors: np.ndarray,  # [H, W, 3]
    values: np.ndarray,  # [H, W] uint8, class of each sure pixel
    is_unsure: np.ndarray,  # [H, W] bool
    palette: Sequence[Color],
) -> np.ndarray:  # [H, W] uint8
    """Assign mixed pixels to the nearby class with the most similar colour."""
    result = fill_from_nearest(values, is_unsure)
    closest = np.full(values.shape, np.inf)
    for class_id in np.unique(values[~is_unsure]).tolist():
        is_near = binary_dilation((values == class_id) & ~is_unsure, np.ones((5, 5)))
        distance = np.abs(colors - np.array(palette[class_id], dtype=np.float64)).sum(axis=-1)
        is_better = is_unsure & is_near & (distance < closest)
        result[is_better] = class_id
        closest[is_better] = distance[is_better]
    return result


def find_boundaries(values: np.ndarray) -> np.ndarray:  # [H, W] -> [H, W] bool
    """Return the pixels that differ from one of their four neighbours."""
    across = np.pad(values[:, 1:] != values[:, :-1], ((0, 0), (1, 1)))
    down = np.pad(values[1:] != values[:-1], ((1, 1), (0, 0)))
    return across[:, 1:] | across[:, :-1] | down[1:] | down[:-1]


def find_in_between(values: np.ndarray) -> np.ndarray:  # [H, W] -> [H, W] bool
    """Return the pixels with values strictly between those of two opposite neighbours.

    Interpolation makes a ramp of such pixels along every border; drawn masks have few.
    """
    across, down = (np.sign(np.diff(values.astype(np.int16), axis=axis)) for axis in (1, 0))
    found = np.pad(across[:, 1:] * across[:, :-1] > 0, ((0, 0), (1, 1)))
    return found | np.pad(down[1:] * down[:-1] > 0, ((1, 1), (0, 0)))
