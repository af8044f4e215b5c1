"""The one pass over the files: what is worth knowing of each image and mask, as small facts."""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import UnidentifiedImageError

from mate3d.errors import UserError
from mate3d.image_errors import DECODING_ERRORS
from mate3d.label_colors import Color
from mate3d.photo.open_photo import to_rgb
from training.data.doctor.alignment import Alignment, measure_alignment
from training.data.doctor.mask_reading import (
    MaskEncoding,
    MaskReading,
    find_boundaries,
    find_in_between,
    read_image,
    read_mask,
)
from training.data.format import DatasetFiles
from training.data.workers import map_by_workers

Progress = Callable[[int, int], None]

_EXIF_ORIENTATION = 274
# Below this standard deviation (of 0..255) an image shows nothing.
MIN_SPREAD = 3.0


@dataclass(frozen=True)
class Job:
    """One name of the data set and the files that go by it.

    Args:
        name: Below `images/` and `masks/`.
        image: File of the image, relative to the data set; None if there is none.
        mask: File of the mask; None if there is none.
    """

    name: str
    image: str | None
    mask: str | None


@dataclass(frozen=True)
class Shape:
    """Pixels of one value in a mask.

    Args:
        area: Share of the picture, 0..1.
        x: Centroid, 0 at the left edge, 1 at the right one.
        y: Centroid, 0 at the top, 1 at the bottom.
    """

    area: float
    x: float
    y: float


@dataclass(frozen=True)
class FileFacts:
    """What is known of an image or mask file; `error` says why it could not be read."""

    error: str = ""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    digest: str = ""


@dataclass(frozen=True)
class ImageFacts(FileFacts):
    """What is known of an image file."""

    spread: float = 0.0  # standard deviation of the pixels, 0..255
    orientation: int = 1  # EXIF


@dataclass(frozen=True)
class MaskFacts(FileFacts):
    """What is known of a mask file."""

    encoding: MaskEncoding = "values"
    is_lossy: bool = False
    has_other_palette: bool = False
    in_between: float = 0.0  # share of the border pixels that lie between their neighbours' values
    shapes: dict[int, Shape] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemFacts:
    """What is known of one name; parts that are not there are None."""

    name: str
    image: ImageFacts | None
    mask: MaskFacts | None
    alignment: Alignment | None


def examine_all(
    files: DatasetFiles,
    jobs: Sequence[Job],
    palette: Sequence[Color],
    *,
    num_workers: int = 0,
    progress: Progress | None = None,
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
    examine = partial(examine_item, files, palette=tuple(palette))
    for done, item in enumerate(map_by_workers(examine, jobs, num_workers), start=1):
        facts.append(item)
        if progress is not None:
            progress(done, len(jobs))
    return facts


def examine_item(files: DatasetFiles, job: Job, palette: Sequence[Color]) -> ItemFacts:
    """Read one image and its mask; whatever is wrong with them becomes a fact."""
    image_facts, image = (None, None) if job.image is None else _examine_image(files, job.image)
    mask_facts, reading = (
        (None, None) if job.mask is None else _examine_mask(files, job.mask, palette)
    )
    alignment = None
    can_be_compared = image is not None and reading is not None
    # A blank image and an empty mask have nothing to compare.
    if can_be_compared and image_facts.spread >= MIN_SPREAD and len(mask_facts.shapes) > 1:
        alignment = measure_alignment(image, reading.values)
    return ItemFacts(job.name, image_facts, mask_facts, alignment)


def _examine_image(
    files: DatasetFiles, file: str
) -> tuple[ImageFacts, np.ndarray | None]:  # facts, [H, W] float32 0..255
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = read_image(files.read(file))
            grey = np.asarray(to_rgb(image).convert("L"), dtype=np.float32)
            orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except (UserError, *DECODING_ERRORS) as error:
        return ImageFacts(error=_one_line(error)), None
    facts = ImageFacts(
        size=image.size,
        mode=image.mode,
        digest=_digest(image.mode, image.size, image.tobytes()),
        spread=float(grey.std()),
        orientation=orientation,
    )
    return facts, grey


def _examine_mask(
    files: DatasetFiles, file: str, palette: Sequence[Color]
) -> tuple[MaskFacts, MaskReading | None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reading = read_mask(files.read(file), palette)
    except (UserError, *DECODING_ERRORS) as error:
        return MaskFacts(error=_one_line(error)), None
    values = reading.values
    num_boundary = max(int(find_boundaries(values).sum()), 1)
    facts = MaskFacts(
        size=(values.shape[1], values.shape[0]),
        mode=reading.mode,
        encoding=reading.encoding,
        is_lossy=reading.is_lossy,
        has_other_palette=reading.has_other_palette,
        digest=_digest(reading.encoding, values.shape, values.tobytes()),
        in_between=float(find_in_between(values).sum()) / num_boundary,
        shapes={} if reading.encoding == "foreign_colors" else measure_shapes(values),
    )
    return facts, reading


def measure_shapes(values: np.ndarray) -> dict[int, Shape]:  # [H, W] uint8
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


def _digest(*parts: object) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else str(part).encode())
    return digest.hexdigest()


def _one_line(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is in no known image format"
    return " ".join(str(error).split())[:160] or type(error).__name__
