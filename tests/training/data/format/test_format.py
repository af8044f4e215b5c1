"""What is written comes back, whatever the container; an index says what it may."""

import errno
import json
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mate3d.atomic import atomic_folder
from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ
from training.data.dataset import PortraitDataset
from training.data.format import DatasetWriter, image_name, open_dataset, parse_index

CONTAINERS = pytest.mark.parametrize(
    ("name", "shard_size"), [("data", None), ("data.zip", None), ("data", 2)]
)


def _add(writer: DatasetWriter, name: str, caption: str = "", **known) -> None:
    image, label_map = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    writer.add(name, image, label_map, [0.0] * 25, caption, **known)


def _write(path: Path, *names: str, **options) -> Path:
    with DatasetWriter(path, CATMASK_HQ, **options) as writer:
        for name in names:
            _add(writer, name, name)
    return path


def _index(**changes) -> bytes:
    content = {
        "label_set": "catmask_hq",
        "camera_convention": "opencv",
        "labels": [["a.png", [0.0] * 25]],
    }
    return json.dumps({**content, **changes}).encode()


# What comes back


def test_written_values_come_back_exactly(tmp_path):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    label_map = rng.integers(0, 6, (8, 8), dtype=np.uint8)
    values = rng.normal(size=25).astype(np.float32)
    with DatasetWriter(tmp_path / "data", CATMASK_HQ) as writer:
        writer.add(image_name(1234), image, label_map, values.tolist())
    item = PortraitDataset(tmp_path / "data")[0]
    np.testing.assert_array_equal(item["image"].permute(1, 2, 0), image)
    np.testing.assert_array_equal(item["label_map"], label_map)
    np.testing.assert_array_equal(item["camera"], values)
    assert item["caption"] == ""
    with Image.open(tmp_path / "data/masks/00001/img00001234.png") as mask:
        assert mask.mode == "P"


def test_archive_is_uncompressed_and_reproducible(tmp_path):
    first, second = (_write(tmp_path / f"{i}.zip", "a.png", "b.png") for i in range(2))
    assert first.read_bytes() == second.read_bytes()
    infos = zipfile.ZipFile(first).infolist()
    assert all(info.compress_type == zipfile.ZIP_STORED for info in infos)


@CONTAINERS
def test_all_that_is_known_of_a_sample_comes_back(tmp_path, name, shard_size):
    attributes = {"ear_size": 1.5, "eye_color": [0.1, 0.2, 0.3]}
    with DatasetWriter(tmp_path / name, CATMASK_HQ, shard_size=shard_size) as writer:
        _add(writer, "b.png", residual=0.01)
        _add(writer, "a.png", repeats=3, attributes=attributes)
        writer.describe({"source": "drawn", "failed": [["c.png", "no face"]]})
    _, index = open_dataset(tmp_path / name)
    assert index.names == ("a.png", "b.png") and index.label_set == CATMASK_HQ
    assert math.isnan(index.residuals[0]) and index.residuals[1] == np.float32(0.01)
    assert index.repeats.tolist() == [3, 1]
    assert index.attributes == (attributes, {})
    assert index.preparation == {"source": "drawn", "failed": [["c.png", "no face"]]}


def test_optional_keys_may_be_missing(dataset_folder):
    written = json.loads((dataset_folder / "dataset.json").read_text())
    required = ["label_set", "label_set_version", "camera_convention", "labels", "captions"]
    assert list(written) == required
    index = parse_index(_index(), "dataset.json")
    assert index.repeats.tolist() == [1] and index.captions == ("",)
    assert index.attributes == ({},) and index.preparation == {}


# Complete or not at all


@CONTAINERS
def test_interrupted_writer_leaves_nothing(tmp_path, name, shard_size):
    with (
        pytest.raises(KeyboardInterrupt),
        DatasetWriter(tmp_path / name, CATMASK_HQ, shard_size=shard_size) as writer,
    ):
        _add(writer, "a.png")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@CONTAINERS
def test_writer_replaces_only_when_asked(tmp_path, name, shard_size):
    _write(tmp_path / name, "a.png", shard_size=shard_size)
    with pytest.raises(UserError, match="overwrite=true"):
        DatasetWriter(tmp_path / name, CATMASK_HQ)
    _write(tmp_path / name, "b.png", overwrite=True, shard_size=shard_size)
    assert open_dataset(tmp_path / name)[1].names == ("b.png",)
    assert os.listdir(tmp_path) == [name]


def test_writer_removes_what_a_killed_one_left(tmp_path):
    # A process that is killed never leaves this block.
    killed = atomic_folder(tmp_path / "cats")
    killed.__enter__()
    assert len(os.listdir(tmp_path)) == 1
    _write(tmp_path / "cats", "a.png")
    assert os.listdir(tmp_path) == ["cats"]


def test_second_writer_of_a_place_is_refused(tmp_path):
    with DatasetWriter(tmp_path / "cats", CATMASK_HQ) as writer:
        with (
            pytest.raises(UserError, match="another process"),
            DatasetWriter(tmp_path / "cats", CATMASK_HQ),
        ):
            pass
        _add(writer, "a.png")
    assert len(open_dataset(tmp_path / "cats")[1].names) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("thesis.tex", "not a dataset"), ("cats/notes.txt", "notes.txt")],
)
def test_files_of_the_user_are_not_overwritten(tmp_path, name, message):
    path = _write(tmp_path / "cats", "a.png") if "/" in name else tmp_path
    (tmp_path / name).write_text("years of work")
    with pytest.raises(UserError, match=message):
        DatasetWriter(path, CATMASK_HQ, overwrite=True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["cats", "cats.zip"])
def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, name, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(UserError, match="cannot write .*No space left on device"),
        DatasetWriter(tmp_path / name, CATMASK_HQ) as writer,
    ):
        _add(writer, "a.png")
        monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
        monkeypatch.setattr(zipfile.ZipFile, "close", full)
        monkeypatch.setattr(Path, "write_bytes", full)
        _add(writer, "b.png")
    assert not list(tmp_path.iterdir())


# What is refused

UNSAFE = ["../e", "a/../../e", "/e", "a//e", "a\\e", "a\0", "./e", "", "\ud800e"]


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_name_is_refused_everywhere(tmp_path, name):
    name = name and f"{name}.png"
    with pytest.raises(UserError, match="^cats.json: .*unsafe"):
        parse_index(_index(labels=[[name, [0.0] * 25]]), "cats.json")
    with pytest.raises(UserError, match="unsafe"):
        _write(tmp_path / "data", name)
    assert not list(tmp_path.parent.rglob("e.png"))


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("a.png", {}, "two images .* a.png"),
        ("b.PNG", {}, "b.PNG .*\\.png"),
        ("b.png", {"repeats": 1001}, "repeats of b.png.* 1001; .* 1..1000"),
        ("b.png", {"residual": math.nan}, "camera_residuals of b.png.* nan"),
        ("b.png", {"attributes": {"x": math.inf}}, "attributes of b.png"),
    ],
)
def test_writer_refuses_what_no_reader_takes(tmp_path, name, known, message):
    with (
        pytest.raises(UserError, match=message),
        DatasetWriter(tmp_path / "cats", CATMASK_HQ) as writer,
    ):
        _add(writer, "a.png")
        _add(writer, name, **known)
    assert not list(tmp_path.iterdir())


def test_shards_in_an_archive_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"data\.zip"):
        DatasetWriter(tmp_path / "data.zip", CATMASK_HQ, shard_size=2)


INDEXES = {
    "deep": (b"[" * 100_000, "is not valid JSON: .*deeply"),
    "long number": (b"1" * 5000, "is not valid JSON: "),
    "list": (b"[]", "'labels'"),
    "entry": (_index(labels=["x"]), "entry x of 'labels' is not"),
    "deep entry": (_index(labels=[[[[[[[["x"]]]]]]]]), r"entry \[+.* of 'labels' is not"),
    "24 numbers": (_index(labels=[["a.png", [0.0] * 24]]), "a.png has 24 values"),
    "nan": (_index(labels=[["a.png", [math.nan] * 25]]), "25 finite numbers"),
    "10**400": (_index(labels=[["a.png", [10**400] * 25]]), "a.png has 25 values, 0 "),
    "twice": (_index(labels=[["a.png", [0.0] * 25]] * 2), "lists a.png twice in 'labels'"),
    "label set": (_index(label_set="dogs"), r"unknown label set 'dogs'; use one of: [^u]*sofgan$"),
    "version": (_index(label_set_version=7), "label_set_version is 7"),
    "convention": (_index(camera_convention="gl"), "camera_convention is 'gl'; use 'opencv'"),
    "captions": (_index(captions=[1]), "'captions' must"),
    "residual": (_index(camera_residuals={"a.png": -1}), "'camera_residuals' must map .* numbers"),
    "no repeats": (_index(repeats={"a.png": 0}), "'repeats' must .* 1..1000"),
    "true repeats": (_index(repeats={"a.png": True}), "'repeats' must map"),
    "attribute": (_index(attributes={"a.png": {"size": "big"}}), "'attributes' must map"),
    "big attribute": (_index(attributes={"a.png": {"size": [10**400]}}), "'attributes' must map"),
    "preparation": (_index(preparation=[1]), "'preparation' must be an object"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_absurd_index_is_one_line(name):
    content, message = INDEXES[name]
    with pytest.raises(UserError, match=message) as info:
        parse_index(content, "cats.json")
    assert "\n" not in str(info.value) and len(str(info.value)) < 400
