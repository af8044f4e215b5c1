"""The dataset reads all containers alike, mirrors correctly, repeats, and names mistakes."""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mate3d.cameras import mirror_camera
from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ, save_label_map
from tests.png_files import make_grey_png
from tests.training.data.shard_data import edit_json
from training.data.dataset import PortraitDataset
from training.data.format import DatasetWriter, encode_image, image_name, open_dataset
from training.data.loader import make_loader
from training.data.preparation.photo_options import PhotoOptions
from training.data.preparation.repack import RepackMaker

FIRST = "00000/img00000000.png"


def test_folder_and_zip_give_the_same_items_of_documented_types(dataset_folder, dataset_zip):
    folder, archive = PortraitDataset(dataset_folder), PortraitDataset(dataset_zip)
    assert len(folder) == len(archive) == 6
    assert folder.label_set.name == "catmask_hq" and folder.resolution == 16
    for index in range(6):
        expected, got = folder[index], archive[index]
        assert got.pop("caption") == expected.pop("caption") == f"cat number {index}"
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(folder.camera_labels[index], got["camera"])
    assert got["image"].dtype == torch.uint8 and got["image"].shape == (3, 16, 16)
    assert got["label_map"].dtype == torch.uint8 and got["label_map"].shape == (16, 16)
    assert got["camera"].dtype == torch.float32 and got["camera"].shape == (25,)


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


@pytest.mark.parametrize(("name", "shard_size"), [("data", None), ("data.zip", None), ("data", 2)])
def test_masks_are_read_by_colour_from_every_container(tmp_path, name, shard_size):
    """As colours, and with palettes whose order is another one in every file."""
    generator = np.random.default_rng(0)
    label_maps = generator.integers(0, 6, (4, 16, 16))
    image = encode_image(Image.new("RGB", (16, 16)))
    with DatasetWriter(tmp_path / name, CATMASK_HQ, shard_size=shard_size) as writer:
        for number, label_map in enumerate(label_maps):
            places = generator.permutation(6)
            mask = Image.fromarray(np.argsort(places)[label_map].astype(np.uint8), mode="P")
            mask.putpalette(np.array(CATMASK_HQ.palette)[places].ravel().tolist())
            mask = mask.convert("RGB") if number == 0 else mask
            writer.add_encoded(image_name(number), image, encode_image(mask), [0.0] * 25)
    batch = PortraitDataset(tmp_path / name).read_batch(range(4))
    np.testing.assert_array_equal(batch["label_map"], label_maps)


def test_smaller_resolution_keeps_label_ids_and_mean_colour(dataset_folder):
    full, half = PortraitDataset(dataset_folder), PortraitDataset(dataset_folder, resolution=8)
    assert half[0]["image"].shape == (3, 8, 8) and half.resolution == 8
    assert set(half[0]["label_map"].unique().tolist()) <= set(
        full[0]["label_map"].unique().tolist()
    )
    means = [item["image"].float().mean().item() for item in (full[0], half[0])]
    assert abs(means[0] - means[1]) < 3
    with pytest.raises(UserError, match="resolution=32 .* use 1..16"):
        PortraitDataset(dataset_folder, resolution=32)


def test_repacking_writes_capital_suffixes_small(dataset_folder):
    for kind in ("images", "masks"):
        (dataset_folder / kind / FIRST).rename(dataset_folder / kind / FIRST.replace("png", "PNG"))
    text = (dataset_folder / "dataset.json").read_text()
    (dataset_folder / "dataset.json").write_text(text.replace(FIRST, FIRST.replace("png", "PNG")))
    maker = RepackMaker(str(dataset_folder), None, None, PhotoOptions(), torch.device("cpu"))
    (sample,) = maker(maker.jobs()[0])
    assert maker.jobs()[0].names == (FIRST,) and sample.name == FIRST


# What a user can get wrong in a dataset, and the message for it.


def _replace_picture(kind: str, mode: str, size: tuple[int, int]) -> Callable[[Path], None]:
    return lambda folder: Image.new(mode, size).save(folder / kind / FIRST)


def _no_camera(folder: Path) -> None:
    edit_json(folder / "dataset.json", lambda index: index["labels"].pop(0))


def _unknown_ids(folder: Path) -> None:
    save_label_map(folder / "masks" / FIRST, np.full((16, 16), 9), CELEBAMASK_HQ)


def _other_color(folder: Path) -> None:
    Image.new("RGB", (16, 16), (9, 9, 8)).save(folder / "masks" / FIRST)


def _truncated_image(folder: Path) -> None:
    path = folder / "images" / FIRST
    path.write_bytes(path.read_bytes()[:200])


def _bomb(kind: str) -> Callable[[Path], None]:
    content = make_grey_png(60000, 60000, b"0")
    return lambda folder: (folder / kind / FIRST).write_bytes(content)


DAMAGES = {
    "no index": (lambda f: (f / "dataset.json").unlink(), "has no dataset.json"),
    "no mask": (lambda f: (f / "masks" / FIRST).unlink(), f"with image .* mask, first {FIRST}"),
    "no image": (lambda f: (f / "images" / FIRST).unlink(), f"with mask .* image, first {FIRST}"),
    "no camera": (_no_camera, f"camera .*, first {FIRST}"),
    "truncated": (_truncated_image, f"image .*{FIRST} is not a readable image"),
    "grey image": (_replace_picture("images", "L", (16, 16)), f"{FIRST} has mode L; use 8-bit RGB"),
    "narrow image": (_replace_picture("images", "RGB", (8, 16)), f"{FIRST} is 8 x 16 px"),
    "mask colour": (_other_color, f"mask .*{FIRST} contains 1 colour.* not in catmask_hq"),
    "mask size": (_replace_picture("masks", "L", (8, 8)), f"{FIRST} is 8 x 8 px; .* 16 x 16"),
    "unknown ids": (_unknown_ids, f"mask .*{FIRST} .*unknown .*\\[9\\]"),
    "huge image": (_bomb("images"), "is not a readable image: .*3600000000 pixels"),
    "huge mask": (_bomb("masks"), "is not a readable image: .*3600000000 pixels"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_data_set_is_named_in_one_line(dataset_folder, name):
    damage, message = DAMAGES[name]
    damage(dataset_folder)
    with pytest.raises(UserError, match=message) as info:
        PortraitDataset(dataset_folder)[0]
    assert "\n" not in str(info.value)


def test_place_without_a_data_set_is_named(tmp_path):
    with pytest.raises(UserError, match="not found: .*nowhere"):
        PortraitDataset(tmp_path / "nowhere")
    with DatasetWriter(tmp_path / "data", CATMASK_HQ):
        pass
    with pytest.raises(UserError, match="no images"):
        PortraitDataset(tmp_path / "data")
    (tmp_path / "data.zip").write_bytes(b"hello")
    with pytest.raises(UserError, match="data.zip is not a readable zip"):
        PortraitDataset(tmp_path / "data.zip")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cats/dataset.json"], "cats/dataset.json"),
        (["dataset.json", "images\\a.png"], r"names with backslashes, first images\\a.png; pack"),
    ],
)
def test_zips_of_other_programs_are_named(tmp_path, names, message):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"{}")
    with pytest.raises(UserError, match=message):
        open_dataset(tmp_path / "other.zip")


def _damage_member(path: Path, method: int) -> None:
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        offset = archive.getinfo(f"masks/{FIRST}").header_offset + 30 + len(f"masks/{FIRST}")
    content = bytearray(path.read_bytes())
    content[offset : offset + 30] = b"\xff" * 30
    path.write_bytes(content)


def _set_directory_field(path: Path, offset: int, value: int) -> None:
    """Change 2 bytes of the member's record in the directory at the end of the zip."""
    content = bytearray(path.read_bytes())
    name = f"masks/{FIRST}".encode()
    for start in (content.rindex(name) - 46 + offset, content.index(name) - 32 + offset):
        content[start : start + 2] = struct.pack("<H", value)
    path.write_bytes(content)


ZIP_DAMAGES = {
    "stored": lambda path: _damage_member(path, zipfile.ZIP_STORED),
    "deflate": lambda path: _damage_member(path, zipfile.ZIP_DEFLATED),
    "lzma": lambda path: _damage_member(path, zipfile.ZIP_LZMA),
    "bzip2": lambda path: _damage_member(path, zipfile.ZIP_BZIP2),
    "encrypted": lambda path: _set_directory_field(path, 8, 1),
    "unknown method": lambda path: _set_directory_field(path, 10, 77),
}


@pytest.mark.parametrize("name", ZIP_DAMAGES)
def test_damaged_member_of_a_zip_is_skipped(dataset_zip, name):
    ZIP_DAMAGES[name](dataset_zip)
    dataset = PortraitDataset(dataset_zip)
    with pytest.raises(UserError, match=f"archive .* is damaged at masks/{FIRST}: "):
        dataset[0]
    stream = make_loader(dataset, batch_size=6)
    assert "cat number 0" not in next(stream)["caption"] and stream.num_unreadable == 1
