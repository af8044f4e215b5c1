"""Repair of one item's files: the pixels of its image and of its mask."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from mate3d.errors import UserError
from mate3d.labels import LabelSet
from mate3d.photo.alignment import middle_box
from mate3d.photo.open_photo import to_rgb
from training.data.doctor.reading import (
    fill_from_nearest,
    find_in_between,
    read_image,
    read_mask,
    resolve_borders,
)
from training.data.format import DatasetFiles, encode_image, encode_mask

# A larger share of unknown ids cannot be filled from the neighbours with any right.
_MAX_FILLED = 0.1


@dataclass(frozen=True)
class RepairPlan:
    """What happens to the files of one item.

    Args:
        name: Of the item.
        image: File of the image.
        mask: File of the mask.
        repairs: What each repair needs, by code in the order of repairs; none leaves the files as
            they are.
    """

    name: str
    image: str
    mask: str
    repairs: Mapping[str, Any] = field(default_factory=dict)


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
    if not plan.repairs:
        return RepairedFiles(plan.name, image_content, mask_content)
    image = read_image(image_content)
    # Reading looks up colours and joins channels.
    values, _ = read_mask(mask_content, label_set.palette)
    try:
        for code, detail in plan.repairs.items():
            if code in _MASK_REPAIRS:
                values = _MASK_REPAIRS[code](values, detail, label_set)
    except UserError as error:
        return RepairedFiles(plan.name, refusal=str(error))
    if int(values.max()) >= label_set.num_classes:
        return RepairedFiles(plan.name, refusal=f"the mask still holds id {values.max()}")
    values = _resize_mask(values, image.size)
    if "image_size" in plan.repairs:
        box, side = middle_box(image.size), plan.repairs["image_size"]
        image = to_rgb(image.crop(box)).resize((side, side), Image.Resampling.BICUBIC)
        values = _resize_mask(values[box[1] : box[3], box[0] : box[2]], (side, side))
    if {"image_size", "image_format"} & plan.repairs.keys():
        image_content = encode_image(to_rgb(image))
    return RepairedFiles(plan.name, image_content, encode_mask(values, label_set))


def _fill_in_between(values: np.ndarray, detail: None, label_set: LabelSet) -> np.ndarray:
    levels = np.arange(256)[:, None]
    return resolve_borders(values[..., None], values, find_in_between(values), levels)


def _fill_unknown(values: np.ndarray, detail: None, label_set: LabelSet) -> np.ndarray:
    is_unknown = values >= label_set.num_classes
    if is_unknown.mean() > _MAX_FILLED:
        raise UserError(f"{100 * is_unknown.mean():.0f} % of the mask have unknown ids")
    return fill_from_nearest(values, is_unknown)


def _look_up(values: np.ndarray, table: np.ndarray, label_set: LabelSet) -> np.ndarray:
    return table[values]


def _mirror(values: np.ndarray, table: np.ndarray, label_set: LabelSet) -> np.ndarray:
    return table[values[:, ::-1]]


def _resize_mask(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (values.shape[1], values.shape[0]) == size:
        return values
    return np.array(Image.fromarray(values).resize(size, Image.Resampling.NEAREST))


_MASK_REPAIRS: Mapping[str, Callable[[np.ndarray, Any, LabelSet], np.ndarray]] = {
    "mask_scaled": _look_up,
    "mask_interpolated": _fill_in_between,
    "mask_unknown_ids": _fill_unknown,
    "label_order": _look_up,
    "mouth_nose_swapped": _look_up,
    "left_right_swapped": _look_up,
    "mask_mirrored": _mirror,
}
