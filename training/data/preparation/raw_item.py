"""What a source of photos lists: items with their files and all that is known about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from mate3d.labels import LabelSet

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
class Listing:
    """What a source found.

    Args:
        items: What can be prepared, sorted by name.
        unusable: Name and reason of each file or item that cannot be, sorted by name.
        notes: Sentences about the files that the user should read.
    """

    items: tuple[RawItem, ...]
    unusable: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """A data set as others publish it; pickles, so that worker processes can read masks."""

    label_set: LabelSet

    def list_items(self) -> Listing:
        """List what is there.

        Raises:
            UserError: If a folder or file is missing or malformed, or nothing is usable.
        """

    def read_mask(self, item: RawItem) -> np.ndarray:  # [H, W] uint8
        """Return the item's label map in ids of `label_set`.

        Raises:
            UserError: If a file of the mask is unreadable or holds something else than labels.
        """


def item_key(name: str) -> str:
    """Return a file's name without image suffix, with forward slashes: photos are paired by it."""
    path = PurePosixPath(name.replace("\\", "/").removeprefix("./"))
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path)


def file_key(name: str) -> str:
    """Return `item_key` without folders."""
    return item_key(name).rpartition("/")[2]
