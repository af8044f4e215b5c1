"""Faults of masks: their pixels, and where their classes lie."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from mate3d.label_conversion import find_conversion
from mate3d.labels import CELEBAMASK_HQ, get_label_set
from tests.training.data.doctor.broken import Fault, OpenDataset, swap_values

_TO_BISENET = find_conversion(CELEBAMASK_HQ, get_label_set("face_parsing_bisenet"))
_SIDES = ((4, 5), (6, 7), (8, 9))
_HALF_A_PIXEL = (1, 0, 0.5, 0, 1, 0.5)


def _change(code: str, change: Callable[[np.ndarray], np.ndarray], number=None, **options) -> Fault:
    """Return a fault that changes ids."""
    return Fault(code, lambda data, names: data.change_masks(names, change), number, **options)


def _save(code: str, change: Callable[[np.ndarray], np.ndarray], number=None, **options) -> Fault:
    """Return a fault that stores something else than ids with a palette."""
    return Fault(code, lambda data, names: data.save_grey_masks(names, change), number, **options)


def _paint(code: str, change: Callable[[Image.Image], Image.Image], number, **options) -> Fault:
    """Return a fault that stores colours."""
    return Fault(code, lambda data, names: data.change_colors(names, change), number, **options)


def _save_jpeg(data: OpenDataset, names: list[str]) -> None:
    data.save_grey_masks(names, lambda mask: mask, format="JPEG")


def _sort_palette(data: OpenDataset, names: list[str]) -> None:
    for name in names:
        image = Image.fromarray(5 - data.mask(name)).convert("P")
        image.putpalette(np.array(data.label_set.palette, dtype=np.uint8)[::-1].ravel().tolist())
        image.save(data.mask_file(name))


def _change_palette(data: OpenDataset, names: list[str]) -> None:
    image = Image.fromarray(data.mask(names[0])).convert("P")
    image.putpalette([7 * value for value in range(18)])
    image.save(data.mask_file(names[0]))


def _smooth_colors(image: Image.Image) -> Image.Image:
    return image.resize((192, 192), 0).resize((64, 64), Image.Resampling.BILINEAR)


def _smooth(mask: np.ndarray) -> np.ndarray:
    image = Image.fromarray(mask)
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return np.array(image.transform(image.size, affine, _HALF_A_PIXEL, bilinear))


def _spot(mask: np.ndarray) -> np.ndarray:
    mask[30:34, 30:34] = 77
    return mask


def _turn_upside_down(data: OpenDataset, names: list[str]) -> None:
    data.change_images(names, lambda image: image.rotate(180))
    data.change_masks(names, lambda mask: np.rot90(mask, 2))


def _mirror(data: OpenDataset, names: list[str]) -> list[str]:
    turned = data.turned_names()
    data.change_masks(turned, lambda mask: mask[:, ::-1])
    return turned


def _mirror_with_sides(data: OpenDataset, names: list[str]) -> list[str]:
    turned = data.turned_names()[:5]
    data.change_masks(turned, lambda mask: swap_values(mask, *_SIDES)[:, ::-1])
    return turned


MASK_FAULTS = {
    "half size": _change("mask_size", lambda mask: mask[::2, ::2], 4, mask_error=0.15),
    "JPEG": Fault("mask_useless", _save_jpeg, 2),
    "unknown colours": _paint("mask_useless", lambda i: i.point(lambda v: 255 - v // 2), 2),
    "black and white": _save("mask_useless", lambda mask: np.uint8(255) * (mask > 0), 2),
    "one class": _change("mask_useless", np.zeros_like, 2),
    "colours": _paint("mask_colors", lambda image: image, None),
    "colours with alpha": _paint("mask_colors", lambda image: image.convert("RGBA"), 1),
    "red and blue": _paint("mask_colors", lambda i: Image.merge("RGB", i.split()[::-1]), 3),
    "smooth colours": _paint("mask_colors", _smooth_colors, 3, mask_error=0.05),
    "smooth colours of faces": _paint(
        "mask_colors", _smooth_colors, 3, kind="faces", mask_error=0.05
    ),
    "sorted palette": Fault("mask_colors", _sort_palette, 3),
    "another palette": Fault("mask_palette", _change_palette, 1),
    "three channels": _save("mask_format", lambda mask: np.stack([mask] * 3, axis=-1), 3),
    "16 bits": _save("mask_format", lambda mask: mask.astype(np.uint16), 3),
    "times 40": _save("mask_scaled", lambda mask: 40 * mask),
    "spread to 255": _save(
        "mask_scaled", lambda mask: (mask * (255 / 18)).astype(np.uint8), kind="faces"
    ),
    "from 1": _save("mask_scaled", lambda mask: mask + 1),
    "smooth": _change("mask_interpolated", _smooth, 4, mask_error=0.1),
    "spot of unknown ids": _change("mask_unknown_ids", _spot, 1, mask_error=0.01),
    "wrong label set": Fault(
        "mask_unknown_ids",
        lambda data, names: data.index.update(label_set="catmask_hq"),
        kind="faces",
        follows=("mouth_nose_swapped", "upside_down", "mask_misfit"),
        remains=None,
    ),
    "ids of BiSeNet": _change("label_order", _TO_BISENET.apply, kind="faces"),
    "mouth and nose": _change("mouth_nose_swapped", lambda mask: swap_values(mask, (4, 5))),
    "mouth and nose in some": _change(
        "mouth_nose_swapped", lambda mask: swap_values(mask, (4, 5)), 3
    ),
    "sides": _change("left_right_swapped", lambda mask: swap_values(mask, *_SIDES), kind="faces"),
    "sides in some": _change(
        "left_right_swapped", lambda mask: swap_values(mask, *_SIDES), 4, kind="faces"
    ),
    "upside down": Fault("upside_down", _turn_upside_down, 2),
    "mirrored": Fault("mask_mirrored", _mirror),
    "mirrored with sides": Fault("mask_mirrored", _mirror_with_sides, kind="faces"),
    "shifted": _change(
        "mask_misfit",
        lambda mask: np.roll(mask, (3, 6), axis=(0, 1)),
        3,
        remains=("mask_misfit",),
        mask_error=1.0,
    ),
    "confused": _change(
        "mask_misfit",
        lambda mask: swap_values(mask, (6, 10), (7, 12), (2, 11)),
        1,
        kind="faces",
        remains=("mask_misfit",),
        mask_error=1.0,
    ),
}
