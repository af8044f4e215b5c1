"""Faults of masks: their pixels, and where their classes lie."""

import shutil

import numpy as np
from PIL import Image

from mate3d.label_conversion import find_conversion
from mate3d.labels import CELEBAMASK_HQ, get_label_set
from tests.training.data.doctor.broken import OpenDataset, resize_nearest, swap_values
from tests.training.data.doctor.fault import Names, fault

# Pixels of masks


@fault("mask_unreadable")
def _mask_cut_off(data: OpenDataset) -> Names:
    content = data.mask_file(data.names[5]).read_bytes()
    data.mask_file(data.names[5]).write_bytes(content[: len(content) // 2])
    return [data.names[5]]


@fault("mask_lossy")
def _mask_as_jpeg(data: OpenDataset) -> Names:
    data.save_grey_masks(data.names[:2], lambda mask: mask, format="JPEG")
    return data.names[:2]


@fault("mask_size")
def _masks_of_half_size(data: OpenDataset) -> Names:
    data.change_masks(data.names[:4], lambda mask: resize_nearest(mask, 32))
    return data.names[:4]


@fault("mask_colors")
def _masks_in_colors(data: OpenDataset) -> Names:
    for name in data.names:
        Image.fromarray(data.colored_mask(name)).save(data.mask_file(name))
    return data.names


@fault("mask_colors")
def _one_mask_in_colors_with_alpha(data: OpenDataset) -> Names:
    image = Image.fromarray(data.colored_mask(data.names[0])).convert("RGBA")
    image.save(data.mask_file(data.names[0]))
    return data.names[:1]


@fault("mask_colors")
def _masks_in_colors_with_red_and_blue_exchanged(data: OpenDataset) -> Names:
    for name in data.names[:3]:
        colors = np.ascontiguousarray(data.colored_mask(name)[..., ::-1])
        Image.fromarray(colors).save(data.mask_file(name))
    return data.names[:3]


@fault("mask_blended_colors")
def _colored_masks_resized_with_smoothing(data: OpenDataset) -> Names:
    for name in data.names[:3]:
        image = Image.fromarray(data.colored_mask(name))
        smooth = image.resize((192, 192)).resize((64, 64), Image.Resampling.BILINEAR)
        smooth.save(data.mask_file(name))
    return data.names[:3]


@fault("mask_foreign_colors")
def _masks_in_unknown_colors(data: OpenDataset) -> Names:
    for name in data.names[:2]:
        image = Image.fromarray(255 - data.colored_mask(name) // 2)
        image.save(data.mask_file(name))
    return data.names[:2]


@fault("mask_grey_channels")
def _ids_in_three_channels(data: OpenDataset) -> Names:
    data.save_grey_masks(data.names[:3], lambda mask: np.stack([mask] * 3, axis=-1))
    return data.names[:3]


@fault("mask_depth")
def _masks_of_16_bits(data: OpenDataset) -> Names:
    data.save_grey_masks(data.names[:3], lambda mask: mask.astype(np.uint16))
    return data.names[:3]


@fault("mask_palette_order")
def _palette_sorted_by_a_program(data: OpenDataset) -> Names:
    palette = np.array(data.label_set.palette, dtype=np.uint8)[::-1]
    for name in data.names[:3]:
        image = Image.fromarray(5 - data.mask(name)).convert("P")
        image.putpalette(palette.ravel().tolist())
        image.save(data.mask_file(name))
    return data.names[:3]


@fault("mask_palette")
def _another_palette(data: OpenDataset) -> Names:
    image = Image.fromarray(data.mask(data.names[0])).convert("P")
    image.putpalette([7 * value for value in range(18)])
    image.save(data.mask_file(data.names[0]))
    return [data.names[0]]


@fault("mask_binary")
def _foreground_masks(data: OpenDataset) -> Names:
    data.save_grey_masks(data.names[:2], lambda mask: np.uint8(255) * (mask > 0))
    return data.names[:2]


@fault("mask_multiplied")
def _ids_times_40(data: OpenDataset) -> Names:
    data.save_grey_masks(data.names, lambda mask: 40 * mask)
    return data.names


@fault("mask_multiplied", kind="faces")
def _ids_spread_to_255(data: OpenDataset) -> Names:
    data.save_grey_masks(data.names, lambda mask: (mask * (255 / 18)).astype(np.uint8))
    return data.names


@fault("mask_one_based")
def _ids_from_1(data: OpenDataset) -> Names:
    data.save_grey_masks(data.names, lambda mask: mask + 1)
    return data.names


@fault("mask_interpolated")
def _masks_resized_with_smoothing(data: OpenDataset) -> Names:
    def smooth(mask: np.ndarray) -> np.ndarray:
        half_a_pixel = (1, 0, 0.5, 0, 1, 0.5)
        image = Image.fromarray(mask)
        moved = image.transform(
            image.size, Image.Transform.AFFINE, half_a_pixel, Image.Resampling.BILINEAR
        )
        return np.array(moved)

    data.change_masks(data.names[:4], smooth)
    return data.names[:4]


@fault("mask_unknown_ids")
def _a_spot_of_unknown_ids(data: OpenDataset) -> Names:
    def spot(mask: np.ndarray) -> np.ndarray:
        mask[30:34, 30:34] = 77
        return mask

    data.change_masks([data.names[8]], spot)
    return [data.names[8]]


@fault(
    "mask_unknown_ids", kind="faces", follows=["layout_implausible", "mask_palette"], remains=None
)
def _wrong_label_set(data: OpenDataset) -> Names:
    data.index["label_set"] = "face_5"
    data.save_index()
    return data.names


@fault("mask_empty")
def _empty_masks(data: OpenDataset) -> Names:
    data.change_masks(data.names[:2], np.zeros_like)
    return data.names[:2]


@fault("mask_duplicate", follows=["mask_misfit", "camera_outlier"])
def _mask_of_another(data: OpenDataset) -> Names:
    shutil.copy(data.mask_file(data.names[2]), data.mask_file(data.names[5]))
    return [data.names[2], data.names[5]]


# Places of the classes


@fault("label_order", kind="faces")
def _ids_of_bisenet(data: OpenDataset) -> Names:
    conversion = find_conversion(CELEBAMASK_HQ, get_label_set("face_parsing_bisenet"))
    data.change_masks(data.names, conversion.apply)
    return data.names


@fault("mouth_nose_swapped")
def _mouth_and_nose_exchanged_in_all(data: OpenDataset) -> Names:
    data.change_masks(data.names, lambda mask: swap_values(mask, (4, 5)))
    return data.names


@fault("mouth_nose_swapped")
def _mouth_and_nose_exchanged_in_some(data: OpenDataset) -> Names:
    data.change_masks(data.names[:3], lambda mask: swap_values(mask, (4, 5)))
    return data.names[:3]


@fault("left_right_swapped", kind="faces")
def _sides_exchanged_in_all(data: OpenDataset) -> Names:
    data.change_masks(data.names, lambda mask: swap_values(mask, (4, 5), (6, 7), (8, 9)))
    return data.names


@fault("left_right_swapped", kind="faces")
def _sides_exchanged_in_some(data: OpenDataset) -> Names:
    data.change_masks(data.names[:4], lambda mask: swap_values(mask, (4, 5), (6, 7), (8, 9)))
    return data.names[:4]


@fault("upside_down")
def _cats_upside_down(data: OpenDataset) -> Names:
    data.change_images(data.names[:2], lambda image: image.rotate(180))
    data.change_masks(data.names[:2], lambda mask: np.rot90(mask, 2))
    return data.names[:2]


@fault("layout_implausible", kind="faces", remains=["layout_implausible"])
def _classes_in_confusion(data: OpenDataset) -> Names:
    data.change_masks(data.names[:1], lambda mask: swap_values(mask, (6, 10), (7, 12), (2, 11)))
    return data.names[:1]


@fault("mask_mirrored")
def _masks_of_cats_mirrored(data: OpenDataset) -> Names:
    turned = [name for name, camera in data.index["labels"] if abs(camera[3]) > 1]
    data.change_masks(turned, lambda mask: mask[:, ::-1])
    return turned


@fault("mask_mirrored", kind="faces")
def _masks_of_faces_mirrored_with_sides(data: OpenDataset) -> Names:
    turned = [name for name, camera in data.index["labels"] if abs(camera[3]) > 1][:5]
    table = np.array(data.label_set.mirror_permutation(), dtype=np.uint8)
    data.change_masks(turned, lambda mask: table[mask[:, ::-1]])
    return turned


@fault("mask_shifted", remains=["mask_shifted"])
def _masks_shifted(data: OpenDataset) -> Names:
    data.change_masks(data.names[:3], lambda mask: np.roll(mask, (3, 6), axis=(0, 1)))
    return data.names[:3]
