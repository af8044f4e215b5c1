"""Tar shards read like the folder they were made from, follow WebDataset, and name their faults."""

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
from training.data.format.layout import key_from_name, name_from_key, name_from_member
from training.data.loader import make_loader


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / "shards", num_samples=7, shard_size=3)


def copy_to_shards(source, path, shard_size):
    files, index = open_dataset(source)
    with DatasetWriter(path, index.label_set, shard_size=shard_size) as writer:
        for row, name in enumerate(index.names):
            image, mask = (files.read(f"{folder}/{name}") for folder in ("images", "masks"))
            writer.add_encoded(name, image, mask, index.cameras[row], index.captions[row])
    return path


@pytest.mark.parametrize("is_indexed", [True, False])
def test_shards_give_the_same_items_as_a_folder(dataset_folder, tmp_path, is_indexed):
    path = copy_to_shards(dataset_folder, tmp_path / "shards", shard_size=4)
    if not is_indexed:
        (path / "shards/index.json").unlink()
    assert open_files(path).names() == open_files(dataset_folder).names()
    folder, shards = (PortraitDataset(p, with_flips=True) for p in (dataset_folder, path))
    assert len(folder) == len(shards) == 12
    for index in range(12):
        expected, got = folder[index], shards[index]
        assert got.pop("caption") == expected.pop("caption")
        torch.testing.assert_close(got, expected)


def test_batches_of_shards_are_those_of_the_folder(dataset_folder, tmp_path):
    path = copy_to_shards(dataset_folder, tmp_path / "shards", shard_size=4)
    streams = [
        make_loader(PortraitDataset(p), batch_size=4, seed=3, num_workers=w)
        for p, w in ((dataset_folder, 0), (path, 2))
    ]
    for _ in range(4):
        expected, got = (next(stream) for stream in streams)
        torch.testing.assert_close(got["image"], expected["image"])
        assert got["caption"] == expected["caption"]


def test_shards_hold_the_asked_number_of_samples(shards):
    assert [path.name for path in sorted((shards / "shards").iterdir())] == [
        "000000.tar",
        "000001.tar",
        "000002.tar",
        "index.json",
    ]
    assert [len(table.names) for table in open_files(shards).tables] == [3, 3, 1]


def test_shards_are_reproducible(shards, tmp_path):
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


@pytest.mark.parametrize(
    "name", ["a.png", "sub.folder/deep/img 1.png", "v1.2%2E.png", "ß/x.y.z.png"]
)
def test_key_is_free_of_dots_and_gives_the_name_back(name):
    key = key_from_name(name)
    assert "." not in key and name_from_key(key) == name
    assert name_from_member(f"{key}.image.png") == f"images/{name}"
    assert name_from_member(f"./{key}.mask.png") == f"masks/{name}"
    assert name_from_member(f"{key}.json") is None


def test_unusual_names_come_back(tmp_path):
    names = ["v1.2/img.final.png", "ß" * 60 + "/" + "long" * 30 + ".png"]
    image, label_map = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    with DatasetWriter(tmp_path / "data", CATMASK_HQ, shard_size=5) as writer:
        for name in names:
            writer.add(name, image, label_map, [0.0] * 25, name)
    dataset = PortraitDataset(tmp_path / "data")
    assert [dataset[index]["caption"] for index in range(2)] == sorted(names)
    assert set(next(make_loader(dataset, batch_size=2, streaming=True))["caption"]) == set(names)


# Faults, each with its message.

SHARD = "shards/000001.tar"


def _truncate(path, size):
    (path / SHARD).write_bytes((path / SHARD).read_bytes()[:size])


def _truncate_unindexed(path, size):
    _truncate(path, size)
    (path / "shards/index.json").unlink()


def _index_without(path, key):
    edit_json(path / "shards/index.json", lambda content: content["shards"][0].pop(key))


def _drop_mask(path):
    with tarfile.open(path / SHARD) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]
    rewrite(path / SHARD, [(m, data) for m, data in members if m.name[-9:] != ".mask.png"])
    (path / "shards/index.json").unlink()


def _twice(path):
    (path / "shards/000009.tar").write_bytes((path / SHARD).read_bytes())
    (path / "shards/index.json").unlink()


FAULTS = {
    "missing": (
        lambda p: (p / SHARD).unlink(),
        f"has 2 shards, .*index.json lists 3: {SHARD} is missing",
    ),
    "extra": (
        lambda p: (p / "shards/x.tar").touch(),
        "lists 3 shards, .* has 4: shards/x.tar is not listed; remove it",
    ),
    "truncated": (lambda p: _truncate(p, 1024), f"{SHARD} has 1024 bytes, .* truncated or was"),
    "cut in data": (lambda p: _truncate_unindexed(p, 700), f"{SHARD} is damaged or truncated: "),
    "cut at member": (lambda p: _truncate_unindexed(p, 1024), f"{SHARD} .* it has no end mark"),
    "no tar": (
        lambda p: ((p / SHARD).write_bytes(b"x" * 9999), (p / "shards/index.json").unlink()),
        f"{SHARD} is damaged or truncated: ",
    ),
    "bad index": (lambda p: _index_without(p, "members"), "index.json is not an index of shards"),
    "empty index": (
        lambda p: (p / "shards/index.json").write_text('{"shards": []}'),
        "index.json lists no shards",
    ),
    "no mask": (_drop_mask, "3 name.s. with image but without mask, first 00000/img00000003.png"),
    "twice": (_twice, "6 name.s. are in its shards twice"),
    "no dataset.json": (lambda p: (p / "dataset.json").unlink(), "has no dataset.json at its top"),
    "images": (lambda p: (p / "images").mkdir(), "has both images/ and shards/; keep one"),
}


def _edit_table(path, change):
    edit_json(path / "shards/index.json", lambda content: change(content["shards"][1]))


def _edit_place(path, offset, size):
    places = {"images/00000/img00000003.png": [offset, size]}
    _edit_table(path, lambda table: table["members"].update(places))


FAULTS |= {
    "size -1": (lambda p: _edit_place(p, 512, -1), "its entry of images/.*3.png lies outside of"),
    "offset 0": (lambda p: _edit_place(p, 0, 5), "its entry of images/.*3.png lies outside of"),
    "behind": (lambda p: _edit_place(p, 512, 10**9), "its entry of images/.*3.png lies outside"),
    "fraction": (lambda p: _edit_place(p, 512.5, 3), "its entry of images/.*3.png lies outside"),
    "infinite": (
        lambda p: _edit_table(p, lambda table: table.update(num_bytes=float("inf"))),
        "shard .*000001.tar has .* bytes, .* says inf",
    ),
    "text": (
        lambda p: _edit_table(p, lambda table: table.update(num_bytes="many")),
        "index.json is not an index of shards",
    ),
    "list": (
        lambda p: _edit_table(p, lambda table: table.update(members=[])),
        "index.json is not an index of shards",
    ),
    "unsafe": (
        lambda p: _edit_table(
            p, lambda table: table["members"].update({"images/../e.png": [1, 1]})
        ),
        "index.json: name 'images/../e.png' is unsafe",
    ),
    "deep": (
        lambda p: (p / "shards/index.json").write_text("[" * 100_000),
        "index.json: it is not valid JSON: it is nested too deeply; remove it",
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


def test_index_holds_what_scanning_finds(shards):
    indexed = open_files(shards).tables
    (shards / "shards/index.json").unlink()
    assert open_files(shards).tables == indexed


def test_exchanged_tables_of_an_index_are_named(shards):
    def exchange(content):
        first, second, _ = content["shards"]
        first["members"], second["members"] = second["members"], first["members"]

    edit_json(shards / "shards/index.json", exchange)
    message = "000000.tar is damaged or not what its index says: images/.*3.png is not at byte 512;"
    with pytest.raises(UserError, match=message):
        PortraitDataset(shards)[3]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_foreign_names_of_any_tar_are_read_at_their_place(tmp_path, format):
    names = ["v1.2/img.final.png", "d" * 80 + "/" + "long" * 10 + ".png", "why?.png"]
    names += [] if format == tarfile.USTAR_FORMAT else ["ß" * 60 + "/" + "a" * 70 + ".png", "ß.png"]
    image, label_map = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    with DatasetWriter(tmp_path / "data", CATMASK_HQ, shard_size=5) as writer:
        for name in names:
            writer.add(name, image, label_map, [0.0] * 25, name)
    shard = tmp_path / "data/shards/000000.tar"
    with tarfile.open(shard) as archive:
        members = [(member, archive.extractfile(member)) for member in archive]
        with tarfile.open(tmp_path / "other.tar", "w", format=format) as other:
            for member, stream in members:
                other.addfile(member, stream)
    (tmp_path / "other.tar").replace(shard)
    (tmp_path / "data/shards/index.json").unlink()
    dataset = PortraitDataset(tmp_path / "data")
    assert [dataset[index]["caption"] for index in range(len(names))] == sorted(names)
