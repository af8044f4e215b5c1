"""The single pass over the files, which extracts small facts about each image and mask."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, sobel

from mate3d.label_borders import find_boundaries, find_in_between
from mate3d.label_colors import Color
from mate3d.photo.open_photo import to_rgb
from training.data.doctor.reading import (
    Faults,
    read_image,
    read_mask,
    try_reading,
)
from training.data.format import DatasetFiles

Job = tuple[str, str | None, str | None]

_EXIF_ORIENTATION = 274
# Below this standard deviation (in 0..255) an image is blank.
_MIN_SPREAD = 3.0
# Drawn masks stay below 0.05; with interpolation, more than half of the border pixels are such.
_MAX_IN_BETWEEN = 0.15
# Side at which edges are compared: small enough to be fast, large enough to detect a shift of 3 %.
_SIDE = 64
_MAX_SHIFT = 12


@dataclass(frozen=True)
class Alignment:
    """Correlation of a mask's borders with its image's edges, in -1..1."""

    own: float  # without shift
    best: float  # at the best shift
    shift: tuple[float, float]  # best shift as a fraction of the side; right and down positive
    mirrored: float  # with the mask mirrored


@dataclass
class ItemFacts:
    """Facts about one item."""

    name: str
    faults: Faults = field(default_factory=dict)  # its individual faults
    size: tuple[int, int] | None = None  # of the image; None if unreadable
    image_digest: str = ""  # of an image that is not blank
    mask_digest: str = ""
    # Of each value of a usable mask: area, area * x, area * y, with an image size of 1 x 1.
    sums: np.ndarray | None = None  # [V, 3]
    alignment: Alignment | None = None


def examine_item(files: DatasetFiles, palette: Sequence[Color], job: Job) -> ItemFacts:
    """Read an image and its mask, recording any faults.

    Args:
        palette: Colours of the label set; empty if unknown.
        job: Name, image file, mask file.
    """
    name, image_file, mask_file = job
    item = ItemFacts(name)
    image, image_error = try_reading(files, image_file, partial(_examine_image, item=item))
    examine_mask = partial(_examine_mask, palette=palette, item=item)
    mask, mask_error = try_reading(files, mask_file, examine_mask)
    errors = [f"{k}: {e}" for k, e in (("image", image_error), ("mask", mask_error)) if e]
    if errors:
        item.faults["unreadable"] = ", ".join(errors)
    if image is not None and mask is not None:
        mask_size = (mask.shape[1], mask.shape[0])
        if mask_size != item.size:
            item.faults["mask_size"] = f"mask {describe(mask_size)}, image {describe(item.size)}"
        if item.image_digest and item.sums is not None:
            item.alignment = _measure_alignment(image, mask)
    return item


def describe(size: tuple[int, int]) -> str:
    """Return a size as text."""
    return f"{size[0]} x {size[1]} px"


def _examine_image(content: bytes, item: ItemFacts) -> np.ndarray:  # [H, W] float32 0..255
    image = read_image(content)
    grey = np.asarray(to_rgb(image).convert("L"), dtype=np.float32)
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if image.mode != "RGB":
        item.faults["image_format"] = f"mode {image.mode}"
    elif orientation != 1:
        item.faults["image_format"] = f"EXIF orientation {orientation}"
    if grey.std() < _MIN_SPREAD:
        item.faults["image_blank"] = ""
    else:
        item.image_digest = _digest(image)
    item.size = image.size
    return grey


def _examine_mask(content: bytes, palette: Sequence[Color], item: ItemFacts) -> np.ndarray:
    values, faults = read_mask(content, palette)
    sums = _sum_up(values)
    found = np.flatnonzero(sums[:, 0]).tolist()
    if len(found) == 1:
        faults.setdefault("mask_useless", "one class only")
    elif found == [0, 255]:
        faults.setdefault("mask_useless", "black and white")
    if "mask_useless" in faults:
        item.faults["mask_useless"] = faults["mask_useless"]
        return values
    item.faults |= faults
    item.sums = sums
    item.mask_digest = _digest(Image.fromarray(values))
    share = find_in_between(values).sum() / find_boundaries(values).sum()
    if share > _MAX_IN_BETWEEN and "mask_colors" not in faults:
        item.faults["mask_interpolated"] = f"{100 * share:.0f} % of the borders"
    return values


def _sum_up(values: np.ndarray) -> np.ndarray:  # [H, W] uint8 -> [V, 3]
    height, width = values.shape
    # Counting each value per row and column is cheaper than weighting every pixel.
    rows = np.stack([np.bincount(row, minlength=256) for row in values])
    columns = np.stack([np.bincount(column, minlength=256) for column in values.T])
    x = (np.arange(width) + 0.5) @ columns / width
    y = (np.arange(height) + 0.5) @ rows / height
    return np.stack([rows.sum(axis=0), x, y], axis=1)[: int(values.max()) + 1] / values.size


def _digest(image: Image.Image) -> str:
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=12)
    digest.update(image.tobytes())
    return digest.hexdigest()


def _measure_alignment(
    image: np.ndarray,  # [H, W] float32, grey
    values: np.ndarray,  # [H, W] uint8, of any size
) -> Alignment:
    """Correlate image edges and mask borders on a small grid."""
    size = (_SIDE, _SIDE)
    picture = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    edges = np.hypot(sobel(picture, axis=0), sobel(picture, axis=1))
    # The square root keeps a few strong edges, such as of a bright background, from dominating.
    edges = _standardize(gaussian_filter(np.sqrt(edges), 0.7))
    small = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.NEAREST))
    borders = _standardize(gaussian_filter(find_boundaries(small).astype(np.float32), 0.7))
    correlation = _correlate(edges, borders)
    around = slice(_SIDE // 2 - _MAX_SHIFT, _SIDE // 2 + _MAX_SHIFT + 1)
    near = correlation[around, around]
    down, right = np.unravel_index(near.argmax(), near.shape)
    return Alignment(
        own=float((edges * borders).mean()),
        best=float(near.max()),
        shift=(float(right - _MAX_SHIFT) / _SIDE, float(down - _MAX_SHIFT) / _SIDE),
        mirrored=float((edges * borders[:, ::-1]).mean()),
    )


def _standardize(values: np.ndarray) -> np.ndarray:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 1e-6 else np.zeros_like(values)


def _correlate(edges: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Return the circular correlation per shift of the borders; zero shift is at the centre."""
    product = np.fft.rfft2(edges) * np.conj(np.fft.rfft2(borders))
    return np.fft.fftshift(np.fft.irfft2(product, s=edges.shape)) / edges.size
