"""Repair of one item's files: the pixels of its image and of its mask."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from mate3d.labels import LabelSet
from mate3d.photo.alignment import middle_box
from mate3d.photo.open_photo import to_rgb
from training.data.doctor.reading import fill_from_nearest, find_in_between, read_image, read_mask
from training.data.format import DatasetFiles, encode_image, encode_mask

# Files of image and mask, and what each repair of pixels needs, in the order of repairs.
Plan = tuple[str, str, Mapping[str, Any]]

# A larger share of unknown ids cannot be filled from the neighbours with any right.
_MAX_FILLED = 0.1


def repair_files(files: DatasetFiles, label_set: LabelSet, plan: Plan) -> tuple[bytes, bytes, str]:
    """Read, repair and encode the files of one item.

    Returns:
        Image and mask as PNG files, or why there are none.
    """
    image_content, mask_content = files.read(plan[0]), files.read(plan[1])
    repairs = plan[2]
    if not repairs:
        return image_content, mask_content, ""
    image = read_image(image_content)
    # Reading looks up colours and joins channels.
    values, _ = read_mask(mask_content, label_set.palette)
    for code, detail in repairs.items():
        if code == "mask_interpolated":
            values = fill_from_nearest(values, find_in_between(values))
        elif code == "mask_unknown_ids":
            is_unknown = values >= label_set.num_classes
            if is_unknown.mean() <= _MAX_FILLED:
                values = fill_from_nearest(values, is_unknown)
        elif isinstance(detail, np.ndarray):
            values = detail[values[:, ::-1] if code == "mask_mirrored" else values]
    share = float((values >= label_set.num_classes).mean())
    if share > 0:
        return b"", b"", f"mask_unknown_ids: on {100 * share:.0f} % of the mask"
    values = _resize_mask(values, image.size)
    if "image_size" in repairs:
        box, side = middle_box(image.size), repairs["image_size"]
        image = to_rgb(image.crop(box)).resize((side, side), Image.Resampling.BICUBIC)
        values = _resize_mask(values[box[1] : box[3], box[0] : box[2]], (side, side))
    if {"image_size", "image_format"} & repairs.keys():
        image_content = encode_image(to_rgb(image))
    return image_content, encode_mask(values, label_set), ""


def _resize_mask(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.array(Image.fromarray(values).resize(size, Image.Resampling.NEAREST))
