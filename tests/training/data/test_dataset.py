"""The data set reads all containers alike, mirrors correctly, repeats, and names mistakes."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mate3d.cameras import mirror_camera
from mate3d.errors import UserError
from mate3d.labels import CELEBAMASK_HQ, save_label_map
from training.data.dataset import PortraitDataset
from training.data.format import DatasetWriter, image_name


def test_folder_and_zip_give_the_same_items(dataset_folder, dataset_zip):
    folder, archive = PortraitDataset(dataset_folder), PortraitDataset(dataset_zip)
    assert len(folder) == len(archive) == 6
    for index in range(6):
        expected, got = folder[index], archive[index]
        assert got.pop("caption") == expected.pop("caption") == f"cat number {index}"
        torch.testing.assert_close(got, expected)


def test_item_has_documented_types(dataset_folder):
    dataset = PortraitDataset(dataset_folder)
    item = dataset[2]
    assert item["image"].dtype == torch.uint8 and item["image"].shape == (3, 16, 16)
    assert item["label_map"].dtype == torch.uint8 and item["label_map"].shape == (16, 16)
    assert item["camera"].dtype == torch.float32 and item["camera"].shape == (25,)
    torch.testing.assert_close(dataset.camera_labels[2], item["camera"])
    assert dataset.label_set.name == "catmask_hq" and dataset.resolution == 16


def test_flip_mirrors_image_labels_and_camera(tmp_path):
    label_map = np.zeros((4, 4), dtype=np.uint8)
    label_map[1, 0] = CELEBAMASK_HQ.class_id("l_eye")
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    camera = torch.randn(25, generator=torch.Generator().manual_seed(0))
    with DatasetWriter(tmp_path / "data", CELEBAMASK_HQ) as writer:
        writer.add(image_name(0), image, label_map, camera.tolist(), "a face")
    dataset = PortraitDataset(tmp_path / "data", with_flips=True)
    item = dataset[1]
    assert len(dataset) == 2 and item["caption"] == "a face"
    np.testing.assert_array_equal(item["image"].permute(1, 2, 0), image[:, ::-1])
    assert item["label_map"][1, 3] == CELEBAMASK_HQ.class_id("r_eye")
    assert int((item["label_map"] != 0).sum()) == 1
    torch.testing.assert_close(item["camera"], mirror_camera(camera))
    torch.testing.assert_close(dataset.camera_labels, torch.stack([camera, mirror_camera(camera)]))


def test_smaller_resolution_keeps_label_ids_and_mean_colour(dataset_folder):
    full, half = PortraitDataset(dataset_folder), PortraitDataset(dataset_folder, resolution=8)
    assert half[0]["image"].shape == (3, 8, 8) and half.resolution == 8
    assert set(half[0]["label_map"].unique().tolist()) <= set(
        full[0]["label_map"].unique().tolist()
    )
    means = [item["image"].float().mean().item() for item in (full[0], half[0])]
    assert abs(means[0] - means[1]) < 3


# What a user can get wrong in a data set folder, and the message for it.

FIRST = "00000/img00000000.png"


def _edit_index(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        index = json.loads((folder / "dataset.json").read_text())
        change(index)
        (folder / "dataset.json").write_text(json.dumps(index))

    return damage


def _grey_image(folder: Path) -> None:
    Image.new("L", (16, 16)).save(folder / "images" / FIRST)


def _narrow_image(folder: Path) -> None:
    Image.new("RGB", (8, 16)).save(folder / "images" / FIRST)


def _rgb_mask(folder: Path) -> None:
    Image.new("RGB", (16, 16)).save(folder / "masks" / FIRST)


def _small_mask(folder: Path) -> None:
    Image.new("L", (8, 8)).save(folder / "masks" / FIRST)


def _unknown_ids(folder: Path) -> None:
    save_label_map(folder / "masks" / FIRST, np.full((16, 16), 9), CELEBAMASK_HQ)


def _truncated_image(folder: Path) -> None:
    path = folder / "images" / FIRST
    path.write_bytes(path.read_bytes()[:200])


DAMAGES = {
    "no index": (lambda f: (f / "dataset.json").unlink(), "has no dataset.json"),
    "bad json": (lambda f: (f / "dataset.json").write_text("{"), "is not valid JSON"),
    "json list": (lambda f: (f / "dataset.json").write_text("[]"), "must hold 'labels'"),
    "no mask": (lambda f: (f / "masks" / FIRST).unlink(), f"with image .* mask, first {FIRST}"),
    "no image": (lambda f: (f / "images" / FIRST).unlink(), f"with mask .* image, first {FIRST}"),
    "no camera": (_edit_index(lambda i: i["labels"].pop(0)), f"camera .*, first {FIRST}"),
    "24 numbers": (_edit_index(lambda i: i["labels"][0][1].pop()), f"{FIRST} has 24 numbers"),
    "nan": (_edit_index(lambda i: i["labels"][0][1].__setitem__(3, float("nan"))), "25 finite"),
    "entry": (_edit_index(lambda i: i["labels"].append("x")), "entry x of 'labels' is not"),
    "label set": (_edit_index(lambda i: i.update(label_set="dog")), "unknown label set 'dog'"),
    "convention": (_edit_index(lambda i: i.update(camera_convention="gl")), "'gl'; use 'opencv'"),
    "captions": (_edit_index(lambda i: i.update(captions=[1])), "'captions' must map"),
    "truncated": (_truncated_image, f"image .*{FIRST} is not a readable image"),
    "grey image": (_grey_image, f"image .*{FIRST} has mode L; use 8-bit RGB"),
    "narrow image": (_narrow_image, f"image .*{FIRST} is 8 x 16 px; .* square"),
    "mask mode": (_rgb_mask, f"mask .*{FIRST} has mode RGB"),
    "mask size": (_small_mask, f"mask .*{FIRST} is 8 x 8 px; .* here 16 x 16"),
    "unknown ids": (_unknown_ids, f"mask .*{FIRST} holds unknown .*\\[9\\]"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_data_set_is_named_in_one_line(dataset_folder, name):
    damage, message = DAMAGES[name]
    damage(dataset_folder)
    with pytest.raises(UserError, match=message) as info:
        PortraitDataset(dataset_folder)[0]
    assert "\n" not in str(info.value)


def test_missing_data_set_is_named(tmp_path):
    with pytest.raises(UserError, match="data set not found: .*nowhere"):
        PortraitDataset(tmp_path / "nowhere")


def test_empty_data_set_is_an_error(tmp_path, label_set):
    with DatasetWriter(tmp_path / "data", label_set):
        pass
    with pytest.raises(UserError, match="holds no images"):
        PortraitDataset(tmp_path / "data")


def test_file_that_is_no_zip_is_named(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"hello")
    with pytest.raises(UserError, match="data.zip is not a readable zip"):
        PortraitDataset(tmp_path / "data.zip")


def test_flipped_byte_in_archive_is_found(dataset_zip):
    with zipfile.ZipFile(dataset_zip) as archive:
        offset = archive.getinfo(f"masks/{FIRST}").header_offset
    content = bytearray(dataset_zip.read_bytes())
    content[offset + 120] ^= 0xFF
    dataset_zip.write_bytes(content)
    with pytest.raises(UserError, match=f"damaged at masks/{FIRST}"):
        PortraitDataset(dataset_zip)[0]


def test_resolution_above_the_files_is_refused(dataset_folder):
    with pytest.raises(UserError, match="resolution 32 does not fit .* use 1..16"):
        PortraitDataset(dataset_folder, resolution=32)
