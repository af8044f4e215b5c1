"""What preparing works on: photos and all that is known of them, jobs, samples, failures."""

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
    """One photo as it lies on the disk, before anything is cropped, parsed or converted.

    Args:
        name: Name of the sample to make, such as "sub/stem.png".
        image: The photo.
        mask: Files of the mask: none if a network is to parse the photo, one, or one a part.
        camera: The 25 numbers of a camera label, OpenCV axes; None if it is to be estimated.
        landmarks: Five points in pixels of the photo: the eye at the image's left, the one at its
            right, the tip of the nose, the corner of the mouth at the left, at the right.
        caption: Text, "" for none.
        attributes: Numbers by name; what can only be true or false is 1 or 0.
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
    """One sample as it will lie in the data set.

    Args:
        name: Name below `images/` and `masks/`.
        image: PNG file, 8-bit RGB.
        mask: PNG file, 8-bit palette.
        known: Camera, caption and so on, as `DatasetWriter.add_encoded` calls and takes them.
    """

    name: str
    image: bytes
    mask: bytes
    known: Mapping[str, Any]


class FailedSample(NamedTuple):
    """A sample that could not be made, and why in one line."""

    name: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """What a source found.

    Args:
        items: What can be prepared, sorted by name.
        unusable: Files and items that cannot be, sorted by name.
        notes: Sentences about the files that the user should read.
    """

    items: tuple[RawItem, ...]
    unusable: tuple[FailedSample, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """What one call of a maker makes.

    Args:
        names: The samples' names.
        payload: What the maker needs; goes to worker processes, so it must pickle.
        version: Changes when what the samples are made of changes, such as a photo's file.
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
    """Encode pixels as PNG files; `extra` is what else `DatasetWriter.add_encoded` takes."""
    known = {"camera": [float(value) for value in camera], **extra}
    return PreparedSample(name, *encode_pair(image, label_map, label_set), known)


def item_key(name: str) -> str:
    """Return a file's name without image suffix, with forward slashes: photos are paired by it."""
    path = PurePosixPath(name.replace("\\", "/").removeprefix("./"))
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path)


def file_key(name: str) -> str:
    """Return `item_key` without folders."""
    return item_key(name).rpartition("/")[2]
