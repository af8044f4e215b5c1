"""The one pass over the files: what is worth knowing of each image and mask, as small facts."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image

from mate3d.label_colors import Color
from mate3d.photo.open_photo import to_rgb
from training.data.doctor.alignment import Alignment, measure_alignment
from training.data.doctor.reading import (
    Faults,
    find_boundaries,
    find_in_between,
    read_image,
    read_mask,
    try_reading,
)
from training.data.format import DatasetFiles
from training.data.workers import map_by_workers

Progress = Callable[[int, int], None]
Job = tuple[str, str | None, str | None]  # name, file of the image, file of the mask

_EXIF_ORIENTATION = 274
# Below this standard deviation (of 0..255) an image shows nothing.
_MIN_SPREAD = 3.0
# Drawn masks stay below 0.05; smooth resizing makes more than half of the border such pixels.
_MAX_IN_BETWEEN = 0.15


@dataclass(frozen=True)
class Shape:
    """Pixels of one value in a mask."""

    area: float  # share of the picture, 0..1
    x: float  # centroid, 0 at the left edge, 1 at the right one
    y: float  # centroid, 0 at the top, 1 at the bottom


@dataclass
class ItemFacts:
    """What is known of one name."""

    name: str
    faults: Faults = field(default_factory=dict)  # what is wrong with it by itself
    size: tuple[int, int] | None = None  # of the image; None if it cannot be read
    image_digest: str = ""  # of an image that shows something
    mask_digest: str = ""
    shapes: Mapping[int, Shape] = field(default_factory=dict)  # by value; of a usable mask
    alignment: Alignment | None = None


def examine_all(
    files: DatasetFiles,
    jobs: Sequence[Job],
    palette: Sequence[Color],
    num_workers: int,
    progress: Progress | None,
) -> list[ItemFacts]:
    """Read all files of the jobs once and return the facts in the jobs' order.

    Args:
        files: The data set.
        jobs: What to read.
        palette: Colours of the label set; empty if it is not known.
        num_workers: Processes that read; 0 reads in this one.
        progress: Called with the number of finished jobs and of all.
    """
    facts = []
    examine = partial(_examine_item, files, palette=tuple(palette))
    for item in map_by_workers(examine, jobs, num_workers):
        facts.append(item)
        if progress is not None:
            progress(len(facts), len(jobs))
    return facts


def _examine_item(files: DatasetFiles, job: Job, palette: Sequence[Color]) -> ItemFacts:
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
        if item.image_digest and item.shapes:
            item.alignment = measure_alignment(image, mask)
    return item


def describe(size: tuple[int, int]) -> str:
    """Return a size in words."""
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
    shapes = _measure_shapes(values)
    if len(shapes) == 1:
        faults.setdefault("mask_useless", "one class only")
    elif set(shapes) == {0, 255}:
        faults.setdefault("mask_useless", "black and white")
    if "mask_useless" in faults:
        item.faults["mask_useless"] = faults["mask_useless"]
        return values
    item.faults |= faults
    item.shapes = shapes
    item.mask_digest = _digest(Image.fromarray(values))
    share = find_in_between(values).sum() / find_boundaries(values).sum()
    if share > _MAX_IN_BETWEEN and "mask_colors" not in faults:
        item.faults["mask_interpolated"] = f"{100 * share:.0f} % of the borders"
    return values


def _measure_shapes(values: np.ndarray) -> dict[int, Shape]:  # [H, W] uint8
    """Return share and centroid of each value that occurs."""
    height, width = values.shape
    # Counts by row and by column of each value; cheaper than weighting every pixel.
    rows = np.stack([np.bincount(row, minlength=256) for row in values])
    columns = np.stack([np.bincount(column, minlength=256) for column in values.T])
    counts = rows.sum(axis=0)
    y = (np.arange(height) + 0.5) @ rows / height
    x = (np.arange(width) + 0.5) @ columns / width
    return {
        int(value): Shape(
            area=counts[value] / values.size,
            x=x[value] / counts[value],
            y=y[value] / counts[value],
        )
        for value in np.flatnonzero(counts)
    }


def _digest(image: Image.Image) -> str:
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=12)
    digest.update(image.tobytes())
    return digest.hexdigest()
