"""What preparing a data set makes: finished samples, and samples that failed with a reason."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mate3d.labels import LabelSet
from training.data.format import encode_pair


@dataclass(frozen=True)
class PreparedSample:
    """One sample as it will lie in the data set.

    Args:
        name: Name below `images/` and `masks/`.
        image: PNG file, 8-bit RGB.
        mask: PNG file, 8-bit palette.
        camera: The 25 numbers of a camera label.
        caption: Text, "" for none.
        residual: RMS distance of the camera's landmarks from where they were seen, as a fraction
            of the image's side; None where the camera was not estimated.
        repeats: How often an epoch shows the sample.
        attributes: What else is known: numbers or lists of numbers by name.
    """

    name: str
    image: bytes
    mask: bytes
    camera: tuple[float, ...]
    caption: str = ""
    residual: float | None = None
    repeats: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FailedSample:
    """A sample that could not be made, and why in one line."""

    name: str
    reason: str


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
    """Encode pixels as PNG files; `extra` are the remaining fields of `PreparedSample`."""
    image_png, mask_png = encode_pair(image, label_map, label_set)
    numbers = tuple(float(value) for value in camera)
    return PreparedSample(name, image_png, mask_png, numbers, **extra)
