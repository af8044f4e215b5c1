"""Repair of one item's files: the pixels of its image and of its mask."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mate3d.errors import UserError
from mate3d.label_conversion import find_conversion, swap_classes
from mate3d.labels import LabelSet, get_label_set
from mate3d.photo.alignment import middle_box
from mate3d.photo.open_photo import to_rgb
from training.data.doctor.mask_reading import (
    fill_from_nearest,
    find_in_between,
    read_image,
    read_mask,
    resolve_borders,
)
from training.data.format import DatasetFiles, encode_image, encode_mask

Details = Mapping[str, Any]

# A larger share of unknown ids cannot be filled from the neighbours with any right.
MAX_FILLED = 0.1


@dataclass(frozen=True)
class Step:
    """One repair of one item: the finding's code and what the repair needs."""

    code: str
    details: Details


@dataclass(frozen=True)
class RepairPlan:
    """What happens to the files of one item.

    Args:
        name: Of the item.
        image: File of the image.
        mask: File of the mask.
        steps: Repairs; none leaves the files as they are.
    """

    name: str
    image: str
    mask: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class RepairedFiles:
    """The item's new files; `refusal` says why there are none."""

    name: str
    image: bytes = b""
    mask: bytes = b""
    refusal: str = ""


def repair_files(files: DatasetFiles, label_set: LabelSet, plan: RepairPlan) -> RepairedFiles:
    """Read, repair and encode the files of one item."""
    image_content, mask_content = files.read(plan.image), files.read(plan.mask)
    if not plan.steps:
        return RepairedFiles(plan.name, image_content, mask_content)
    image = read_image(image_content)
    values = read_mask(mask_content, label_set.palette).values
    for step in plan.steps:
        if step.code in _IMAGE_REPAIRS:
            image = _IMAGE_REPAIRS[step.code](image, step.details)
        if step.code in _MASK_REPAIRS:
            try:
                values = _MASK_REPAIRS[step.code](values, step.details, label_set)
            except UserError as error:
                return RepairedFiles(plan.name, refusal=str(error))
    values = _resize_mask(values, image.size)
    if int(values.max()) >= label_set.num_classes:
        return RepairedFiles(plan.name, refusal=f"the mask still holds id {values.max()}")
    if any(step.code in _IMAGE_REPAIRS for step in plan.steps):
        image_content = encode_image(image)
    return RepairedFiles(plan.name, image_content, encode_mask(values, label_set))


def _recode(image: Image.Image, details: Details) -> Image.Image:
    return to_rgb(image)


def _crop_square(image: Image.Image, details: Details) -> Image.Image:
    return _resize(image.crop(middle_box(image.size)), details)


def _resize(image: Image.Image, details: Details) -> Image.Image:
    side = details["side"]
    return to_rgb(image).resize((side, side), Image.Resampling.BICUBIC)


def _as_read(values: np.ndarray, details: Details, label_set: LabelSet) -> np.ndarray:
    # Reading already looked up colours and joined channels.
    return values


def _fill_in_between(values: np.ndarray, details: Details, label_set: LabelSet) -> np.ndarray:
    levels = np.arange(256)[:, None]
    return resolve_borders(values[..., None], values, find_in_between(values), levels)


def _divide(values: np.ndarray, details: Details, label_set: LabelSet) -> np.ndarray:
    return (values / details["factor"]).round().astype(np.uint8)


def _subtract_one(values: np.ndarray, details: Details, label_set: LabelSet) -> np.ndarray:
    return values.clip(min=1) - 1


def _fill_unknown(values: np.ndarray, details: Details, label_set: LabelSet) -> np.ndarray:
    is_unknown = values >= label_set.num_classes
    if is_unknown.mean() > MAX_FILLED:
        raise UserError(f"{100 * is_unknown.mean():.0f} % of the mask have unknown ids")
    return fill_from_nearest(values, is_unknown)


def _relabel(values: np.ndarray, details: Details, label_set: LabelSet) -> np.ndarray:
    return find_conversion(get_label_set(details["source"]), label_set).apply(values)


def _swap_ids(values: np.ndarray, details: Details, label_set: LabelSet) -> np.ndarray:
    return swap_classes(values, *details["ids"])


def _swap_sides(values: np.ndarray, details: Details, label_set: LabelSet) -> np.ndarray:
    return np.array(label_set.mirror_permutation(), dtype=np.uint8)[values]


def _mirror(values: np.ndarray, details: Details, label_set: LabelSet) -> np.ndarray:
    mirrored = np.ascontiguousarray(values[:, ::-1])
    return _swap_sides(mirrored, details, label_set) if details["swap_sides"] else mirrored


def _crop_mask(values: np.ndarray, details: Details, label_set: LabelSet) -> np.ndarray:
    values = _resize_mask(values, details["size"])
    left, top, right, bottom = middle_box(details["size"])
    return values[top:bottom, left:right]


def _resize_mask(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (values.shape[1], values.shape[0]) == tuple(size):
        return values
    return np.array(Image.fromarray(values).resize(size, Image.Resampling.NEAREST))


_IMAGE_REPAIRS: dict[str, Callable[[Image.Image, Details], Image.Image]] = {
    "image_format": _recode,
    "image_mode": _recode,
    "image_not_square": _crop_square,
    "image_size": _resize,
}
_MASK_REPAIRS: dict[str, Callable[[np.ndarray, Details, LabelSet], np.ndarray]] = {
    "image_format": _as_read,
    "mask_colors": _as_read,
    "mask_blended_colors": _as_read,
    "mask_grey_channels": _as_read,
    "mask_depth": _as_read,
    "mask_palette_order": _as_read,
    "mask_palette": _as_read,
    "mask_interpolated": _fill_in_between,
    "mask_multiplied": _divide,
    "mask_one_based": _subtract_one,
    "mask_unknown_ids": _fill_unknown,
    "label_order": _relabel,
    "mouth_nose_swapped": _swap_ids,
    "left_right_swapped": _swap_sides,
    "mask_mirrored": _mirror,
    "mask_size": _as_read,  # the mask gets the size of the repaired image
    "image_not_square": _crop_mask,
}
# In the order in which they must be applied to an item.
PIXEL_CODES = tuple(dict.fromkeys((*_MASK_REPAIRS, *_IMAGE_REPAIRS)))
