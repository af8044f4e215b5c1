"""What a mask file really holds: ids, grey levels, colours, or a resized mixture of them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation, distance_transform_edt

from mate3d.label_colors import Color, look_up_colors, look_up_indices

MaskEncoding = Literal[
    "values",  # one channel: ids, or grey levels that stand for them
    "grey_channels",  # the same value in all colour channels
    "wide",  # one channel of 16 or 32 bits
    "palette_order",  # a palette PNG whose indices are not the ids, but whose colours are right
    "colors",  # colours of the label set
    "bgr_colors",  # the same with red and blue exchanged
    "blended_colors",  # colours of the label set, mixed along the borders
    "foreign_colors",  # colours that say nothing about this label set
]
_MIN_SURE_SHARE = 0.6


@dataclass(frozen=True)
class MaskReading:
    """A decoded mask.

    Args:
        values: Ids, or for the encodings of one channel what the file holds; [H, W] uint8. All
            zero for "foreign_colors".
        encoding: How the file says it.
        mode: PIL's mode of the file.
        is_lossy: Stored in a format that does not keep pixel values.
        has_other_palette: A palette PNG in other colours than the label set's.
    """

    values: np.ndarray
    encoding: MaskEncoding
    mode: str
    is_lossy: bool
    has_other_palette: bool


def read_mask(content: bytes, palette: Sequence[Color]) -> MaskReading:
    """Decode a mask of any kind.

    Args:
        content: The file.
        palette: Colours of the label set; empty if the set is not known.

    Raises:
        OSError, SyntaxError, ValueError: If it is not a complete image (`DECODING_ERRORS`).
    """
    image = read_image(content)
    is_lossy = image.format in ("JPEG", "MPO")
    if image.mode == "P":
        values, encoding, has_other_palette = _read_palette_image(image, palette)
        return MaskReading(values, encoding, "P", is_lossy, has_other_palette)
    values, encoding = _read_channels(image, palette)
    return MaskReading(values, encoding, image.mode, is_lossy, False)


def _read_palette_image(
    image: Image.Image, palette: Sequence[Color]
) -> tuple[np.ndarray, MaskEncoding, bool]:
    values = np.array(image, dtype=np.uint8)
    places = look_up_indices(image, palette)
    if all(places[index] == index for index in places if index < len(palette)):
        return values, "values", False
    if None not in places.values():
        table = np.zeros(256, dtype=np.uint8)
        table[list(places)] = list(places.values())
        return table[values], "palette_order", False
    return values, "values", bool(palette)


def _read_channels(image: Image.Image, palette: Sequence[Color]) -> tuple[np.ndarray, MaskEncoding]:
    if image.mode == "1":
        return np.array(image.convert("L")), "values"
    if image.mode == "L":
        return np.array(image), "values"
    if image.mode.startswith(("I", "F")):
        wide = np.array(image).astype(np.float64)
        is_too_large = wide.max(initial=0) > 255
        return (wide / 257 if is_too_large else wide).round().astype(np.uint8), "wide"
    colors = np.array(image.convert("RGB"))
    if (colors == colors[..., :1]).all():
        return np.ascontiguousarray(colors[..., 0]), "grey_channels"
    return _match_colors(colors, palette)


def _match_colors(
    colors: np.ndarray,  # [H, W, 3] uint8
    palette: Sequence[Color],
) -> tuple[np.ndarray, MaskEncoding]:
    nothing = np.zeros(colors.shape[:2], dtype=np.uint8)
    if not palette:
        return nothing, "foreign_colors"
    values, is_sure = look_up_colors(colors, palette)
    if is_sure.all():
        return values, "colors"
    swapped, is_sure_swapped = look_up_colors(colors[..., ::-1], palette)
    if is_sure_swapped.all():
        return swapped, "bgr_colors"
    # Black and one common colour match many pictures, so a mixture needs three classes.
    if is_sure.mean() >= _MIN_SURE_SHARE and len(np.unique(values[is_sure])) >= 3:
        return resolve_borders(colors, values, ~is_sure, np.array(palette)), "blended_colors"
    return nothing, "foreign_colors"


def fill_from_nearest(
    values: np.ndarray,  # [H, W]
    is_unsure: np.ndarray,  # [H, W] bool
) -> np.ndarray:  # [H, W]
    """Give each unsure pixel the value of the nearest sure one; unchanged if none is sure."""
    if is_unsure.all() or not is_unsure.any():
        return values.copy()
    indices = distance_transform_edt(is_unsure, return_distances=False, return_indices=True)
    return values[tuple(indices)]


def resolve_borders(
    pixels: np.ndarray,  # [H, W, C]
    values: np.ndarray,  # [H, W] uint8
    is_unsure: np.ndarray,  # [H, W] bool
    codebook: np.ndarray,  # [K, C]
) -> np.ndarray:  # [H, W] uint8
    """Give mixed pixels the class around them that they are most like.

    Args:
        pixels: Colours or grey levels of the file.
        values: Class of each sure pixel.
        is_unsure: Which pixels are mixtures.
        codebook: Pure colour or grey level of each class.
    """
    result = fill_from_nearest(values, is_unsure)
    closest = np.full(values.shape, np.inf)
    for class_id in np.unique(values[~is_unsure]).tolist():
        is_near = binary_dilation((values == class_id) & ~is_unsure, np.ones((5, 5)))
        distance = np.abs(pixels - codebook[class_id].astype(np.float64)).sum(axis=-1)
        is_better = is_unsure & is_near & (distance < closest)
        result[is_better] = class_id
        closest[is_better] = distance[is_better]
    return result


def find_boundaries(values: np.ndarray) -> np.ndarray:  # [H, W] -> [H, W] bool
    """Return the pixels that differ from a neighbour to the right, left, below or above."""
    boundary = np.zeros(values.shape, dtype=bool)
    across, down = values[:, 1:] != values[:, :-1], values[1:] != values[:-1]
    boundary[:, 1:] |= across
    boundary[:, :-1] |= across
    boundary[1:] |= down
    boundary[:-1] |= down
    return boundary


def find_in_between(values: np.ndarray) -> np.ndarray:  # [H, W] -> [H, W] bool
    """Return the pixels strictly between the values of two opposite neighbours.

    Smooth resizing makes a ramp of such pixels along every border; drawn masks have few.
    """
    found = np.zeros(values.shape, dtype=bool)
    found[:, 1:-1] |= _is_between(values[:, :-2], values[:, 1:-1], values[:, 2:])
    found[1:-1] |= _is_between(values[:-2], values[1:-1], values[2:])
    return found


def _is_between(before: np.ndarray, middle: np.ndarray, after: np.ndarray) -> np.ndarray:
    return ((before < middle) & (middle < after)) | ((before > middle) & (middle > after))


def read_image(content: bytes) -> Image.Image:
    """Decode an image completely.

    Raises:
        OSError, SyntaxError, ValueError: If it is not a complete image (`DECODING_ERRORS`).
    """
    with Image.open(io.BytesIO(content)) as image:
        image.load()
    return image
