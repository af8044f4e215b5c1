"""Every kind of fault: how to make it, and what the doctor must say."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mate3d.label_conversion import find_conversion
from mate3d.labels import CELEBAMASK_HQ, get_label_set, save_label_map
from tests.training.data_doctor.broken import OpenDataset, swap_values

Names = Iterable[str]


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Args:
        code: The finding that must be there.
        break_data: Makes the fault and returns the names that the finding must list.
        kind: Which clean data set is broken.
        variant: Tells faults with the same code apart.
        follows: Findings that the fault causes besides, and rightly so.
        remains: Errors and warnings that are left after all repairs; None if nothing can be
            written at all.
    """

    code: str
    break_data: Callable[[OpenDataset], Names]
    kind: str = "cats"
    variant: str = ""
    follows: frozenset[str] = frozenset()
    remains: frozenset[str] | None = frozenset()

    def __str__(self) -> str:
        return f"{self.code}-{self.variant}" if self.variant else self.code


FAULTS: list[Fault] = []


def fault(code: str, *, follows: Names = (), remains: Names | None = (), **options):
    """Register the function below as a fault."""

    def register(break_data: Callable[[OpenDataset], Names]):
        left = None if remains is None else frozenset(remains)
        variant = break_data.__name__.strip("_")
        one = Fault(code, break_data, variant=variant, follows=frozenset(follows), remains=left)
        FAULTS.append(Fault(**{**vars(one), **options}))
        return break_data

    return register


# dataset.json


@fault("index_missing", remains=None)
def _no_index(data: OpenDataset) -> Names:
    (data.path / "dataset.json").unlink()
    return []


@fault("index_invalid", remains=None)
def _half_an_index(data: OpenDataset) -> Names:
    content = (data.path / "dataset.json").read_text()
    (data.path / "dataset.json").write_text(content[: len(content) // 2])
    return []


@fault("index_invalid", remains=None)
def _index_without_labels(data: OpenDataset) -> Names:
    (data.path / "dataset.json").write_text(json.dumps({"labels": 3}))
    return []


@fault("label_set_missing", remains=None)
def _no_label_set(data: OpenDataset) -> Names:
    del data.index["label_set"]
    data.save_index()
    return []


@fault("label_set_unknown", remains=None)
def _strange_label_set(data: OpenDataset) -> Names:
    data.index["label_set"] = "dogmask"
    data.save_index()
    return []


@fault("convention_missing")
def _no_convention(data: OpenDataset) -> Names:
    del data.index["camera_convention"]
    data.save_index()
    return []


@fault("convention_unknown")
def _strange_convention(data: OpenDataset) -> Names:
    data.index["camera_convention"] = "blender"
    data.save_index()
    return []


@fault("label_entry_invalid")
def _entries_that_are_no_pairs(data: OpenDataset) -> Names:
    data.index["labels"] += ["lonely", [5, 6]]
    data.save_index()
    return ["entry 24", "entry 25"]


@fault("name_duplicate")
def _same_camera_twice(data: OpenDataset) -> Names:
    data.index["labels"].append(data.index["labels"][4])
    data.save_index()
    return [data.names[4]]


@fault("name_duplicate")
def _two_cameras_for_a_name(data: OpenDataset) -> Names:
    data.index["labels"].append([data.names[4], data.index["labels"][5][1]])
    data.save_index()
    return [data.names[4]]


@fault("captions_invalid", follows=["caption_missing"], remains=["caption_missing"])
def _a_number_as_caption(data: OpenDataset) -> Names:
    data.index["captions"][data.names[2]] = 7
    data.save_index()
    return [data.names[2]]


@fault("caption_missing", remains=["caption_missing"])
def _no_caption_for_some(data: OpenDataset) -> Names:
    for name in data.names[:3]:
        del data.index["captions"][name]
    data.save_index()
    return data.names[:3]


@fault("caption_empty", remains=["caption_missing"])
def _empty_caption(data: OpenDataset) -> Names:
    data.index["captions"][data.names[1]] = " "
    data.save_index()
    return [data.names[1]]


@fault("caption_without_image")
def _caption_of_nothing(data: OpenDataset) -> Names:
    data.index["captions"]["nobody.png"] = "nobody"
    data.save_index()
    return ["nobody.png"]


# Pairs


@fault("no_images", follows=["mask_without_image", "camera_without_image"], remains=None)
def _no_image_at_all(data: OpenDataset) -> Names:
    shutil.rmtree(data.path / "images")
    data.index["captions"] = {}
    data.save_index()
    return []


@fault("image_without_mask")
def _mask_lost(data: OpenDataset) -> Names:
    data.mask_file(data.names[3]).unlink()
    return [data.names[3]]


@fault("mask_without_image", follows=["camera_without_image", "caption_without_image"])
def _image_lost(data: OpenDataset) -> Names:
    data.image_file(data.names[3]).unlink()
    return [data.names[3]]


@fault("image_without_camera")
def _camera_lost(data: OpenDataset) -> Names:
    lost = data.index["labels"].pop(3)
    data.save_index()
    return [lost[0]]


@fault("camera_without_image", follows=["caption_without_image"])
def _item_lost(data: OpenDataset) -> Names:
    data.image_file(data.names[3]).unlink()
    data.mask_file(data.names[3]).unlink()
    return [data.names[3]]


@fault("name_mismatch")
def _cameras_named_with_folder_and_jpg(data: OpenDataset) -> Names:
    for entry in data.index["labels"]:
        entry[0] = f"images\\{entry[0]}".replace("/", "\\").replace(".png", ".jpg")
    data.save_index()
    return data.names


@fault("name_mismatch")
def _mask_in_another_folder(data: OpenDataset) -> Names:
    target = data.path / "masks" / "other" / data.names[2].rsplit("/", 1)[-1]
    target.parent.mkdir()
    data.mask_file(data.names[2]).rename(target)
    return [data.names[2]]


@fault("stray_files")
def _files_of_an_operating_system(data: OpenDataset) -> Names:
    (data.path / "images" / "Thumbs.db").write_bytes(b"x")
    (data.path / "masks" / "._a.png").write_bytes(b"x")
    return ["images/Thumbs.db", "masks/._a.png"]


# Images


@fault("image_format")
def _jpeg_files(data: OpenDataset) -> Names:
    for name in data.names[:2]:
        data.image(name).save(data.image_file(name).with_suffix(".jpg"), quality=95)
        data.image_file(name).unlink()
    return data.names[:2]


@fault("image_unreadable")
def _image_cut_off(data: OpenDataset) -> Names:
    content = data.image_file(data.names[5]).read_bytes()
    data.image_file(data.names[5]).write_bytes(content[: len(content) // 2])
    return [data.names[5]]


@fault("image_unreadable")
def _image_file_empty(data: OpenDataset) -> Names:
    data.image_file(data.names[5]).write_bytes(b"")
    return [data.names[5]]


@fault("image_mode")
def _grey_transparent_and_palette_images(data: OpenDataset) -> Names:
    for name, mode in zip(data.names, ("L", "RGBA", "P", "LA", "I;16"), strict=False):
        data.change_images([name], lambda image, mode=mode: _to_mode(image, mode))
    return data.names[:5]


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.array(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


@fault("image_mode")
def _cmyk_jpeg_named_png(data: OpenDataset) -> Names:
    image = data.image(data.names[0]).convert("CMYK")
    image.save(data.image_file(data.names[0]), format="JPEG")
    return [data.names[0]]


@fault("image_not_square")
def _pictures_with_margins(data: OpenDataset) -> Names:
    name = data.names[6]
    image, mask = data.image(name), data.mask(name)
    wide = np.pad(np.array(image), ((0, 0), (10, 10), (0, 0)), mode="edge")
    Image.fromarray(wide).save(data.image_file(name))
    save_label_map(data.mask_file(name), np.pad(mask, ((0, 0), (10, 10))), data.label_set)
    return [name]


@fault("image_size")
def _one_pair_is_larger(data: OpenDataset) -> Names:
    name = data.names[6]
    data.change_images([name], lambda image: image.resize((96, 96)))
    data.change_masks([name], lambda mask: _resize_nearest(mask, 96))
    return [name]


def _resize_nearest(mask: np.ndarray, side: int) -> np.ndarray:
    return np.array(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))


@fault("image_orientation", remains=["image_orientation"])
def _exif_says_turned(data: OpenDataset) -> Names:
    exif = Image.Exif()
    exif[274] = 6
    data.image(data.names[0]).save(data.image_file(data.names[0]), exif=exif)
    return [data.names[0]]


@fault("image_blank")
def _black_image(data: OpenDataset) -> Names:
    data.change_images([data.names[7]], lambda image: Image.new("RGB", image.size))
    return [data.names[7]]


@fault("image_duplicate")
def _same_item_twice(data: OpenDataset) -> Names:
    shutil.copy(data.image_file(data.names[0]), data.image_file(data.names[9]))
    shutil.copy(data.mask_file(data.names[0]), data.mask_file(data.names[9]))
    data.index["labels"][9][1] = data.index["labels"][0][1]
    data.save_index()
    return [data.names[9]]


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
    data.change_masks(data.names[:4], lambda mask: _resize_nearest(mask, 32))
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


# Cameras


@fault("camera_invalid")
def _camera_of_16_numbers_and_one_with_nan(data: OpenDataset) -> Names:
    data.index["labels"][0][1] = data.index["labels"][0][1][:16]
    data.index["labels"][1][1][3] = float("nan")
    data.save_index()
    return data.names[:2]


@fault("camera_not_rotation")
def _axes_scaled(data: OpenDataset) -> Names:
    data.change_cameras(data.names[:2], lambda pose, k: (pose @ np.diag([2, 2, 2, 1.0]), k))
    return data.names[:2]


@fault("camera_not_rotation")
def _left_handed(data: OpenDataset) -> Names:
    data.change_cameras(data.names[:1], lambda pose, k: (pose @ np.diag([-1, 1, 1, 1.0]), k))
    return data.names[:1]


@fault("camera_transposed")
def _column_by_column(data: OpenDataset) -> Names:
    data.change_cameras(data.names, lambda pose, k: (pose.T, k.T))
    return data.names


@fault("camera_inverted")
def _world_to_camera(data: OpenDataset) -> Names:
    data.change_cameras(data.names, lambda pose, k: (np.linalg.inv(pose), k))
    return data.names


@fault("camera_opengl")
def _opengl_axes_in_all(data: OpenDataset) -> Names:
    data.change_cameras(data.names, lambda pose, k: (pose @ np.diag([1, -1, -1, 1.0]), k))
    return data.names


@fault("camera_opengl")
def _opengl_axes_in_some(data: OpenDataset) -> Names:
    data.change_cameras(data.names[:3], lambda pose, k: (pose @ np.diag([1, -1, -1, 1.0]), k))
    return data.names[:3]


@fault("camera_world_axes")
def _world_with_y_down(data: OpenDataset) -> Names:
    data.change_cameras(data.names, lambda pose, k: (np.diag([1, -1, -1, 1.0]) @ pose, k))
    return data.names


@fault("camera_world_axes")
def _world_with_z_up(data: OpenDataset) -> Names:
    turn = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    data.change_cameras(data.names, lambda pose, k: (turn @ pose, k))
    return data.names


@fault("camera_up_down")
def _cameras_upside_down(data: OpenDataset) -> Names:
    data.change_cameras(data.names[:5], lambda pose, k: (pose @ np.diag([-1, -1, 1, 1.0]), k))
    return data.names[:5]


@fault("camera_mirrored")
def _yaw_sign_in_all(data: OpenDataset) -> Names:
    flip = np.diag([-1, 1, 1, 1.0])
    data.change_cameras(data.names, lambda pose, k: (flip @ pose @ flip, k))
    return data.names


@fault("camera_mirrored", kind="faces")
def _yaw_sign_in_some(data: OpenDataset) -> Names:
    turned = [name for name, camera in data.index["labels"] if abs(camera[3]) > 1][:3]
    flip = np.diag([-1, 1, 1, 1.0])
    data.change_cameras(turned, lambda pose, k: (flip @ pose @ flip, k))
    return turned


@fault("camera_pitch_mirrored")
def _pitch_sign(data: OpenDataset) -> Names:
    flip = np.diag([1, -1, 1, 1.0])
    data.change_cameras(data.names, lambda pose, k: (flip @ pose @ flip, k))
    return data.names


@fault("camera_unrelated", remains=["camera_unrelated"])
def _cameras_of_other_images(data: OpenDataset) -> Names:
    cameras = [camera for _, camera in data.index["labels"]]
    order = np.random.default_rng(2).permutation(len(cameras))
    for entry, other in zip(data.index["labels"], order, strict=True):
        entry[1] = cameras[other]
    data.save_index()
    return []


@fault("camera_outlier", remains=["camera_outlier"])
def _camera_of_one_other_image(data: OpenDataset) -> Names:
    order = sorted(range(24), key=lambda i: data.index["labels"][i][1][3])
    frontal = min(order, key=lambda i: abs(data.index["labels"][i][1][3]))
    data.index["labels"][frontal][1] = data.index["labels"][order[0]][1]
    data.save_index()
    return [data.names[frontal]]


@fault("camera_pixels")
def _intrinsics_in_pixels(data: OpenDataset) -> Names:
    data.change_cameras(data.names, lambda pose, k: (pose, np.diag([64, 64, 1]) @ k))
    return data.names


@fault("camera_pixels")
def _intrinsics_in_pixels_of_another_size(data: OpenDataset) -> Names:
    data.change_cameras(data.names, lambda pose, k: (pose, np.diag([512, 512, 1]) @ k))
    return data.names


@fault("camera_intrinsics")
def _negative_focal_length(data: OpenDataset) -> Names:
    data.change_cameras(data.names[:2], lambda pose, k: (pose, np.diag([-1, 1, 1]) @ k))
    return data.names[:2]


@fault("camera_distance")
def _millimetres(data: OpenDataset) -> Names:
    data.change_cameras(data.names, lambda pose, k: (_move(pose, 450.0), k))
    return data.names


@fault("camera_distance")
def _one_camera_far_away(data: OpenDataset) -> Names:
    data.change_cameras(data.names[:1], lambda pose, k: (_move(pose, 5.0), k))
    return data.names[:1]


def _move(pose: np.ndarray, factor: float) -> np.ndarray:
    pose = pose.copy()
    pose[:3, 3] *= factor
    return pose


@fault("camera_off_target", remains=["camera_off_target"])
def _looks_past_the_head(data: OpenDataset) -> Names:
    turn = np.eye(4)
    turn[[0, 0, 2, 2], [0, 2, 0, 2]] = np.cos(0.5), np.sin(0.5), -np.sin(0.5), np.cos(0.5)
    data.change_cameras(data.names[:2], lambda pose, k: (pose @ turn, k))
    return data.names[:2]


@fault("camera_identical", remains=["camera_identical"])
def _one_camera_for_all(data: OpenDataset) -> Names:
    for entry in data.index["labels"]:
        entry[1] = data.index["labels"][0][1]
    data.save_index()
    return data.names
