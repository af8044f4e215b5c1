"""Data types of dataset preparation: photos, jobs, samples and failures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from mate3d.labels import LabelSet
from training.data.format import encode_pair

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

Point = tuple[float, float]


@dataclass(frozen=True)
class RawItem:
    """A photo on disk, before cropping, parsing or conversion.

    Args:
        name: Name of the resulting sample, such as "sub/stem.png".
        image: The photo.
        mask: Files of the mask: one, one per part, or none if a network parses the photo.
        camera: The 25 numbers of a camera label, OpenCV axes; None to estimate it.
        landmarks: Five points in pixels of the photo: left eye, right eye, tip of the nose, left
            and right mouth corner, as seen in the image.
        caption: Caption, or "".
        attributes: Numeric attributes by name; booleans are 1 or 0.
    """

    name: str
    image: Path
    mask: tuple[Path, ...] = ()
    camera: tuple[float, ...] | None = None
    landmarks: tuple[Point, ...] | None = None
    caption: str = ""
    attributes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PreparedSample:
    """A sample ready to be written."""

    name: str  # relative to `images/` and `masks/`
    image: bytes  # PNG file, 8-bit RGB
    mask: bytes  # PNG file, 8-bit palette
    known: Mapping[str, Any]  # camera, caption, ...: see `DatasetWriter.add_encoded`


class FailedSample(NamedTuple):
    """A sample that could not be made, with a one-line reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """Photos and unusable files found by a source, sorted by name."""

    items: tuple[RawItem, ...]
    unusable: tuple[FailedSample, ...] = ()
    notes: tuple[str, ...] = ()  # sentences about the files, for the user


@dataclass(frozen=True)
class Job:
    """The work of one call of a maker.

    Args:
        names: Names of the samples.
        payload: Input of the maker; must be picklable for worker processes.
        version: Changes when the inputs of the samples change, such as a photo's file.
    """

    names: tuple[str, ...]
    payload: Any
    version: str = ""


Maker = Callable[[Job], Sequence[PreparedSample | FailedSample]]


def make_sample(
    name: str,
    image: np.ndarray,  # [H, W, 3] uint8
    label_map: np.ndarray,  # [H, W] uint8
    label_set: LabelSet,
    camera: Sequence[float],  # 25 numbers
    **extra: Any,
) -> PreparedSample:
    """Encode pixels as PNG files; `extra` are other arguments of `DatasetWriter.add_encoded`."""
    known = {"camera": [float(value) for value in camera], **extra}
    return PreparedSample(name, *encode_pair(image, label_map, label_set), known)


def item_key(name: str) -> str:
    """Return the key for pairing files: the name with forward slashes, without image suffix."""
    path = PurePosixPath(name.replace("\\", "/").removeprefix("./"))
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path)


def file_key(name: str) -> str:
    """Return `item_key` without folders."""
    return item_key(name).rpartition("/")[2]
