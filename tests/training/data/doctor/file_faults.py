"""Faults of dataset.json, of pairs and of images."""

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from mate3d.labels import save_label_map
from tests.training.data.doctor.broken import Fault, OpenDataset


def _edit(code: str, edit: Callable[[dict[str, Any]], Any], **options) -> Fault:
    """Return a fault that changes dataset.json; `edit` may return the names concerned."""

    def break_data(data: OpenDataset, names: list[str]) -> list[str]:
        listed = edit(data.index)
        return listed if isinstance(listed, list) else []

    return Fault(code, break_data, **options)


def _cut_index(data: OpenDataset, names: list[str]) -> None:
    content = (data.path / "dataset.json").read_text()
    (data.path / "dataset.json").write_text(content[: len(content) // 2])
    data.index = None


def _remove_index(data: OpenDataset, names: list[str]) -> None:
    (data.path / "dataset.json").unlink()
    data.index = None


def _list_twice(index: dict[str, Any], camera: int) -> list[str]:
    index["labels"].append([index["labels"][4][0], index["labels"][camera][1]])
    return [index["labels"][4][0]]


def _spoil_values(index: dict[str, Any]) -> list[str]:
    names = [name for name, _ in index["labels"]]
    index["captions"][names[0]] = 7
    index["repeats"] = {names[1]: 10**30, names[2]: True, names[3]: 3}
    index["camera_residuals"] = {names[4]: 10**400}
    index["labels"] += ["lonely", [5, 6]]
    return [*names[:3], names[4], "entry 24", "entry 25"]


def _uncaption(index: dict[str, Any]) -> list[str]:
    names = [name for name, _ in index["labels"]][:3]
    del index["captions"][names[0]], index["captions"][names[1]]
    index["captions"][names[2]] = " "
    return names


def _rename(data: OpenDataset, names: list[str]) -> list[str]:
    name = "..\\..\\evil.png"
    for file in (data.image_file, data.mask_file):
        file(names[0]).rename(file(name))
    data.index["labels"][0][0] = name
    data.index["captions"][name] = data.index["captions"].pop(names[0])
    return [name]


def _move_mask(data: OpenDataset, names: list[str]) -> None:
    target = data.path / "masks" / "other" / names[0].rsplit("/", 1)[-1]
    target.parent.mkdir()
    data.mask_file(names[0]).rename(target)


def _use_backslashes(index: dict[str, Any]) -> list[str]:
    names = [entry[0] for entry in index["labels"]]
    for entry in index["labels"]:
        entry[0] = f"images\\{entry[0]}".replace("/", "\\").replace(".png", ".jpg")
    return names


def _lose_all_images(data: OpenDataset, names: list[str]) -> None:
    shutil.rmtree(data.path / "images")
    data.index["captions"] = {}


def _lose_camera(index: dict[str, Any]) -> list[str]:
    return [index["labels"].pop(3)[0]]


def _leave_files(data: OpenDataset, names: list[str]) -> list[str]:
    stray = ["images/Thumbs.db", "masks/._a.png"]
    for name in stray:
        (data.path / name).write_bytes(b"x")
    data.index["captions"]["nobody.png"] = "nobody"
    return [*stray, "nobody.png"]


def _lose_item(data: OpenDataset, names: list[str]) -> None:
    data.image_file(names[0]).unlink()
    data.mask_file(names[0]).unlink()


def _cut(data: OpenDataset, names: list[str]) -> None:
    for file in (data.image_file(names[0]), data.mask_file(names[1])):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    data.image_file(names[2]).write_bytes(b"")


def _save_other_formats(data: OpenDataset, names: list[str]) -> None:
    for name, mode in zip(names, ("L", "RGBA", "P"), strict=False):
        data.image(name).convert(mode).save(data.image_file(name))
    data.image(names[3]).convert("CMYK").save(data.image_file(names[3]), format="JPEG")
    exif = Image.Exif()
    exif[274] = 6
    data.image(names[4]).save(data.image_file(names[4]), exif=exif)
    data.image(names[5]).save(data.image_file(names[5]).with_suffix(".jpg"), quality=95)
    data.image_file(names[5]).unlink()
    grey = np.array(data.image(names[6]).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(data.image_file(names[6]))


def _change_sizes(data: OpenDataset, names: list[str]) -> None:
    wide = np.pad(np.array(data.image(names[0])), ((0, 0), (10, 10), (0, 0)), mode="edge")
    Image.fromarray(wide).save(data.image_file(names[0]))
    mask = np.pad(data.mask(names[0]), ((0, 0), (10, 10)))
    save_label_map(data.mask_file(names[0]), mask, data.label_set)
    data.change_images(names[1:], lambda image: image.resize((128, 128)))
    data.change_masks(names[1:], lambda mask: mask.repeat(2, axis=0).repeat(2, axis=1))


def _copy_item(data: OpenDataset, names: list[str]) -> list[str]:
    shutil.copy(data.image_file(data.names[0]), data.image_file(data.names[9]))
    shutil.copy(data.mask_file(data.names[0]), data.mask_file(data.names[9]))
    data.index["labels"][9][1] = data.index["labels"][0][1]
    return [data.names[9]]


def _copy_mask(data: OpenDataset, names: list[str]) -> list[str]:
    shutil.copy(data.mask_file(data.names[2]), data.mask_file(data.names[5]))
    return [data.names[2], data.names[5]]


FILE_FAULTS = {
    "no index": Fault("index_invalid", _remove_index, 0, remains=None),
    "half an index": Fault("index_invalid", _cut_index, 0, remains=None),
    "no label set": _edit("label_set_unknown", lambda i: i.pop("label_set"), remains=None),
    "strange label set": _edit(
        "label_set_unknown", lambda i: i.update(label_set="dogmask"), remains=None
    ),
    "no convention": _edit("convention_unknown", lambda i: i.pop("camera_convention")),
    "blender": _edit("convention_unknown", lambda i: i.update(camera_convention="blender")),
    "a camera twice": _edit("entries_invalid", lambda i: _list_twice(i, 4)),
    "two cameras": _edit(
        "entries_invalid", lambda i: _list_twice(i, 5), follows=("camera_invalid",)
    ),
    "malformed values": _edit(
        "entries_invalid",
        _spoil_values,
        follows=("caption_missing",),
        remains=("caption_missing",),
    ),
    "captions for some": _edit("caption_missing", _uncaption, remains=("caption_missing",)),
    "stray files": Fault("stray_files", _leave_files),
    "name outside": Fault("name_unsafe", _rename, 1),
    "mask in another folder": Fault("name_mismatch", _move_mask, 1),
    "cameras with backslashes": _edit("name_mismatch", _use_backslashes),
    "no images": Fault("unpaired", _lose_all_images, remains=None),
    "no mask": Fault("unpaired", lambda data, names: data.mask_file(names[0]).unlink(), 1),
    "no image": Fault(
        "unpaired",
        lambda data, names: data.image_file(names[0]).unlink(),
        1,
        follows=("stray_files",),
    ),
    "no camera": _edit("unpaired", _lose_camera),
    "no files": Fault("unpaired", _lose_item, 1, follows=("stray_files",)),
    "cut off": Fault("unreadable", _cut, 3),
    "other formats": Fault("image_format", _save_other_formats, 7),
    "sizes": Fault("image_size", _change_sizes, 3),
    "black": Fault(
        "image_blank",
        lambda data, names: data.change_images(names, lambda i: Image.new("RGB", i.size)),
        2,
    ),
    "item twice": Fault("duplicate", _copy_item),
    "mask of another": Fault("duplicate", _copy_mask, follows=("mask_misfit", "camera_outlier")),
}
