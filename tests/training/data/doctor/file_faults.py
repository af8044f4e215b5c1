"""Faults of dataset.json, of pairs and of images."""

import json
import shutil

import numpy as np
from PIL import Image

from mate3d.labels import save_label_map
from tests.training.data.doctor.broken import OpenDataset, resize_nearest
from tests.training.data.doctor.fault import Names, fault

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


@fault("label_set_unknown", remains=None)
def _newer_label_set(data: OpenDataset) -> Names:
    data.index["label_set_version"] = 99
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


@fault("values_invalid")
def _strange_repeats_and_residuals(data: OpenDataset) -> Names:
    data.index["repeats"] = {data.names[0]: 10**30, data.names[1]: True, data.names[2]: 3}
    data.index["camera_residuals"] = {data.names[3]: 10**400}
    data.save_index()
    return [data.names[0], data.names[1], data.names[3]]


# Pairs


@fault("name_unsafe")
def _name_with_a_backslash(data: OpenDataset) -> Names:
    name = "..\\..\\evil.png"
    for file in (data.image_file, data.mask_file):
        file(data.names[3]).rename(file(name))
    data.index["labels"][3][0] = name
    data.index["captions"][name] = data.index["captions"].pop(data.names[3])
    data.save_index()
    return [name]


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
    data.change_masks([name], lambda mask: resize_nearest(mask, 96))
    return [name]


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
