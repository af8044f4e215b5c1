"""Tar shards read like the folder they were made from, follow WebDataset, and name their faults."""

import math
import shutil
import tarfile

import numpy as np
import pytest
import torch
import webdataset

from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ
from tests.training.data.shard_data import change_member, edit_json, rewrite, write_shards
from training.data.dataset import PortraitDataset
from training.data.format import DatasetWriter, image_name, open_dataset, open_files
from training.data.loader import make_loader


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / "shards", num_samples=7, shard_size=3)


@pytest.mark.parametrize("is_indexed", [True, False])
def test_shards_give_the_items_and_batches_of_a_folder(dataset_folder, tmp_path, is_indexed):
    files, index = open_dataset(dataset_folder)
    path = tmp_path / "shards"
    with DatasetWriter(path, index.label_set, shard_size=4) as writer:
        for row, name in enumerate(index.names):
            image, mask = (files.read(f"{folder}/{name}") for folder in ("images", "masks"))
            writer.add_encoded(name, image, mask, index.cameras[row], index.captions[row])
    if not is_indexed:
        (path / "shards/index.json").unlink()
    assert open_files(path).names() == files.names()
    folder, shards = (PortraitDataset(p, with_flips=True) for p in (dataset_folder, path))
    assert len(folder) == len(shards) == 12
    for index in range(12):
        expected, got = folder[index], shards[index]
        assert got.pop("caption") == expected.pop("caption")
        torch.testing.assert_close(got, expected)
    batches = [
        next(make_loader(dataset, batch_size=12, seed=3, num_workers=num_workers))
        for dataset, num_workers in ((folder, 0), (shards, 2))
    ]
    torch.testing.assert_close(batches[0]["image"], batches[1]["image"])


def test_shards_hold_the_asked_number_of_samples_and_are_reproducible(shards, tmp_path):
    names = [path.name for path in sorted((shards / "shards").iterdir())]
    assert names == ["000000.tar", "000001.tar", "000002.tar", "index.json"]
    assert [len(table.names) for table in open_files(shards).tables] == [3, 3, 1]
    again = write_shards(tmp_path / "again", num_samples=7, shard_size=3)
    for path in (shards / "shards").iterdir():
        assert path.read_bytes() == (again / "shards" / path.name).read_bytes()


def test_webdataset_reads_our_shards(shards):
    urls = [str(path) for path in sorted((shards / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [
        image_name(index).removesuffix(".png") for index in range(7)
    ]
    assert (samples[5]["image.png"] == 5).all() and samples[5]["image.png"].shape == (8, 8, 3)
    assert samples[5]["json"]["caption"] == "5"
    assert len(samples[5]["json"]["camera"]) == 25
    assert samples[5]["json"]["name"] == image_name(5)


def test_shards_of_webdataset_are_read(shards, tmp_path):
    source, other = open_files(shards), tmp_path / "other"
    (other / "shards").mkdir(parents=True)
    (other / "dataset.json").write_bytes(source.read("dataset.json"))
    for number in range(2):
        with webdataset.TarWriter(str(other / f"shards/cats-{number}.tar")) as writer:
            for index in range(7)[number::2]:
                name = image_name(index)
                image, mask = (source.read(f"{folder}/{name}") for folder in ("images", "masks"))
                key = name.removesuffix(".png")
                writer.write({"__key__": key, "mask.png": mask, "image.png": image, "txt": "cat"})
    dataset = PortraitDataset(other)
    assert [int(dataset[index]["image"][0, 0, 0]) for index in range(7)] == list(range(7))


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_foreign_names_of_any_tar_come_back(tmp_path, format):
    names = ["v1.2%2E/img.final 1.png", "d" * 80 + "/" + "long" * 10 + ".png", "why?.png"]
    names += [] if format == tarfile.USTAR_FORMAT else ["ß" * 60 + "/" + "a" * 70 + ".png", "ß.png"]
    image, label_map = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    with DatasetWriter(tmp_path / "data", CATMASK_HQ, shard_size=5) as writer:
        for name in names:
            writer.add(name, image, label_map, [0.0] * 25, name)
    shard = tmp_path / "data/shards/000000.tar"
    with tarfile.open(shard) as archive, tarfile.open(tmp_path / "o", "w", format=format) as other:
        for member in archive:
            data = archive.extractfile(member)
            # As `tar -cf` of a folder names its members.
            member.name, member.pax_headers = f"./{member.name}", {}
            other.addfile(member, data)
    (tmp_path / "o").replace(shard)
    (tmp_path / "data/shards/index.json").unlink()
    dataset = PortraitDataset(tmp_path / "data")
    assert [dataset[index]["caption"] for index in range(len(names))] == sorted(names)
    batch = next(make_loader(dataset, batch_size=len(names), streaming=True))
    assert set(batch["caption"]) == set(names)


# Faults, each with its message.

SHARD = "shards/000001.tar"
INDEX = "shards/index.json"


def _truncate(path, size):
    (path / SHARD).write_bytes((path / SHARD).read_bytes()[:size])


def _without_index(change):
    return lambda path: (change(path), (path / INDEX).unlink())


def _drop_mask(path):
    with tarfile.open(path / SHARD) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]
    rewrite(path / SHARD, [(m, data) for m, data in members if m.name[-9:] != ".mask.png"])


def _edit_table(path, change):
    edit_json(path / INDEX, lambda content: change(content["shards"][1]))


def _edit_place(path, offset, size):
    places = {"images/00000/img00000003.png": [offset, size]}
    _edit_table(path, lambda table: table["members"].update(places))


DAMAGED = f"{SHARD} is damaged or truncated: "
OUTSIDE = "images/.*3.png"
NO_INDEX = "index.json is not an index of shards"
FAULTS = {
    "missing": (lambda p: (p / SHARD).unlink(), f"{SHARD}: .*nothing.* bytes according"),
    "extra": (lambda p: (p / "shards/x.tar").touch(), "x.tar: .*0 bytes.* nothing according to"),
    "truncated": (lambda p: _truncate(p, 1024), f"{SHARD}: .*1024 bytes.* truncated or was"),
    "infinite": (lambda p: _edit_table(p, lambda t: t.update(num_bytes=math.inf)), "inf bytes acc"),
    "cut in data": (_without_index(lambda p: _truncate(p, 700)), DAMAGED),
    "cut at member": (_without_index(lambda p: _truncate(p, 1024)), DAMAGED),
    "no tar": (_without_index(lambda p: (p / SHARD).write_bytes(b"x" * 9999)), DAMAGED),
    "no mask": (_without_index(_drop_mask), "3 .* without mask, first 00000/img00000003.png"),
    "twice": (
        _without_index(lambda p: shutil.copy(p / SHARD, p / "shards/000009.tar")),
        "6 name.s. .*twice",
    ),
    "no dataset.json": (lambda p: (p / "dataset.json").unlink(), "has no dataset.json"),
    "images": (lambda p: (p / "images").mkdir(), "has both images/ and shards/"),
    "no members": (lambda p: _edit_table(p, lambda t: t.pop("members")), NO_INDEX),
    "text": (lambda p: _edit_table(p, lambda t: t.update(num_bytes="many")), NO_INDEX),
    "empty index": (
        lambda p: (p / INDEX).write_text('{"shards": []}'),
        "index.json lists no shards",
    ),
    "deep": (lambda p: (p / INDEX).write_text("[" * 100_000), "nested too deeply; remove it"),
    "size -1": (lambda p: _edit_place(p, 512, -1), OUTSIDE),
    "offset 0": (lambda p: _edit_place(p, 0, 5), OUTSIDE),
    "fraction": (lambda p: _edit_place(p, 512.5, 3), OUTSIDE),
    "unsafe": (
        lambda p: _edit_table(p, lambda t: t["members"].update({"images/../e.png": [1, 1]})),
        "index.json: .*'images/../e.png'",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named_in_one_line(shards, name):
    damage, message = FAULTS[name]
    damage(shards)
    with pytest.raises(UserError, match=message) as info:
        PortraitDataset(shards)
    assert "\n" not in str(info.value)


def test_damaged_image_is_named_with_its_shard(shards):
    change_member(shards / SHARD, ".image.png", b"no png")
    with pytest.raises(
        UserError, match=f"image images/00000/img00000003.png in .*{SHARD} is not a readable image"
    ):
        PortraitDataset(shards)[3]


def test_shard_that_shrinks_while_it_is_used_is_named(shards):
    dataset = PortraitDataset(shards)
    _truncate(shards, 600)
    with pytest.raises(UserError, match=f"shard .*{SHARD} ends before byte"):
        dataset[3]
    (shards / SHARD).unlink()
    with pytest.raises(UserError, match=f"cannot read .*{SHARD}: No such file"):
        dataset[3]
