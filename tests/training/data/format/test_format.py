"""What is written comes back, whatever the container; an index says what it may."""

import errno
import json
import math
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ
from training.data.dataset import PortraitDataset
from training.data.format import DatasetWriter, image_name, open_dataset, open_files, parse_index

CONTAINERS = [("data", None), ("data.zip", None), ("data", 2)]


def _sample() -> tuple[str, np.ndarray, np.ndarray, list[float]]:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    return image_name(0), image, np.zeros((4, 4), dtype=np.uint8), [0.0] * 25


def test_written_values_come_back_exactly(tmp_path, label_set):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    label_map = rng.integers(0, 6, (8, 8), dtype=np.uint8)
    values = rng.normal(size=25).astype(np.float32)
    with DatasetWriter(tmp_path / "data", label_set) as writer:
        writer.add(image_name(1234), image, label_map, values.tolist())
    item = PortraitDataset(tmp_path / "data")[0]
    np.testing.assert_array_equal(item["image"].permute(1, 2, 0), image)
    np.testing.assert_array_equal(item["label_map"], label_map)
    np.testing.assert_array_equal(item["camera"], values)
    assert item["caption"] == ""
    assert (tmp_path / "data/images/00001/img00001234.png").is_file()
    with Image.open(tmp_path / "data/masks/00001/img00001234.png") as mask:
        assert mask.mode == "P"


def test_archive_is_uncompressed_and_reproducible(dataset_zip, write_dataset, tmp_path):
    again = write_dataset(tmp_path / "again.zip")
    assert again.read_bytes() == dataset_zip.read_bytes()
    infos = zipfile.ZipFile(dataset_zip).infolist()
    assert all(info.compress_type == zipfile.ZIP_STORED for info in infos)


@pytest.mark.parametrize("name, shard_size", CONTAINERS)
def test_all_that_is_known_of_a_sample_comes_back(tmp_path, label_set, name, shard_size):
    _, image, label_map, camera = _sample()
    attributes = {"ear_size": 1.5, "eye_color": [0.1, 0.2, 0.3]}
    with DatasetWriter(tmp_path / name, label_set, shard_size=shard_size) as writer:
        writer.add("b.png", image, label_map, camera, residual=0.01)
        writer.add("a.png", image, label_map, camera, repeats=3, attributes=attributes)
        writer.describe({"source": "drawn", "failed": [["c.png", "no face"]]})
    _, index = open_dataset(tmp_path / name)
    assert index.names == ("a.png", "b.png") and index.label_set == label_set
    assert math.isnan(index.residuals[0]) and index.residuals[1] == np.float32(0.01)
    assert index.repeats.tolist() == [3, 1]
    assert index.attributes == (attributes, {})
    assert index.preparation == {"source": "drawn", "failed": [["c.png", "no face"]]}


def test_encoded_samples_are_written_as_they_are(dataset_folder, tmp_path, label_set):
    source = open_files(dataset_folder)
    name = image_name(0)
    contents = [source.read(f"{folder}/{name}") for folder in ("images", "masks")]
    with DatasetWriter(tmp_path / "copy.zip", label_set) as writer:
        writer.add_encoded(name, *contents, [0.0] * 25, "a cat")
    files, index = open_dataset(tmp_path / "copy.zip")
    assert [files.read(f"{folder}/{name}") for folder in ("images", "masks")] == contents
    assert index.captions == ("a cat",)


def test_plain_index_has_no_optional_keys(dataset_folder):
    index = json.loads((dataset_folder / "dataset.json").read_text())
    assert list(index) == [
        "label_set",
        "label_set_version",
        "camera_convention",
        "labels",
        "captions",
    ]


def test_index_of_before_the_optional_keys_is_read():
    content = {
        "label_set": "catmask_hq",
        "camera_convention": "opencv",
        "labels": [["a.png", [0.0] * 25]],
    }
    index = parse_index(json.dumps(content).encode(), "dataset.json")
    assert index.repeats.tolist() == [1] and index.captions == ("",)
    assert index.attributes == ({},) and index.preparation == {}


BAD_VALUES = {
    "camera_residuals": ({"a.png": -1}, "'camera_residuals' must map image names to numbers of"),
    "repeats": ({"a.png": 0}, "'repeats' must map image names to whole numbers of 1..1000"),
    "attributes": ({"a.png": {"ear_size": "big"}}, "'attributes' must map image names to"),
    "preparation": ([1], "'preparation' must be an object"),
    "label_set_version": (7, "label_set_version is 7, but catmask_hq has version 1 here"),
}


@pytest.mark.parametrize("key", BAD_VALUES)
def test_bad_optional_value_is_named(key):
    value, message = BAD_VALUES[key]
    content = {
        "label_set": "catmask_hq",
        "camera_convention": "opencv",
        "labels": [["a.png", [0.0] * 25]],
        key: value,
    }
    with pytest.raises(UserError, match=f"^cats/dataset.json: {message}") as info:
        parse_index(json.dumps(content).encode(), "cats/dataset.json")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name, shard_size", CONTAINERS)
def test_interrupted_writer_leaves_nothing(tmp_path, label_set, name, shard_size):
    with (
        pytest.raises(KeyboardInterrupt),
        DatasetWriter(tmp_path / name, label_set, shard_size=shard_size) as writer,
    ):
        writer.add(*_sample())
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name, shard_size", CONTAINERS)
def test_writer_replaces_only_when_asked(tmp_path, label_set, name, shard_size):
    with DatasetWriter(tmp_path / name, label_set, shard_size=shard_size) as writer:
        writer.add(*_sample())
    with pytest.raises(UserError, match="exists already; remove it or give overwrite=true"):
        DatasetWriter(tmp_path / name, label_set)
    with DatasetWriter(tmp_path / name, label_set, overwrite=True, shard_size=shard_size) as writer:
        writer.add(*_sample(), caption="second")
    assert PortraitDataset(tmp_path / name)[0]["caption"] == "second"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_writer_never_replaces_what_is_no_data_set(tmp_path, label_set):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not a data set"):
        DatasetWriter(tmp_path, label_set, overwrite=True)


def test_two_samples_of_one_name_are_refused(tmp_path, label_set):
    with (
        pytest.raises(UserError, match="two images of .* are called 00000/img00000000.png"),
        DatasetWriter(tmp_path / "data", label_set) as writer,
    ):
        writer.add(*_sample())
        writer.add(*_sample())


def test_shards_in_a_zip_are_refused(tmp_path, label_set):
    with pytest.raises(UserError, match="shards go to a folder, not to .*data.zip"):
        DatasetWriter(tmp_path / "data.zip", label_set, shard_size=2)


def test_empty_shards_are_refused(tmp_path, label_set):
    with pytest.raises(UserError, match="shard_size=0 must be at least 1"):
        DatasetWriter(tmp_path / "data", label_set, shard_size=0)


def _add(writer: DatasetWriter, name: str, **extra) -> None:
    image, label_map = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    writer.add(name, image, label_map, [0.0] * 25, **extra)


def test_writer_removes_what_a_killed_one_left(tmp_path):
    (tmp_path / ".cats.partial" / "images").mkdir(parents=True)
    (tmp_path / ".cats.partial" / "images" / "old.png").write_bytes(b"old")
    with DatasetWriter(tmp_path / "cats", CATMASK_HQ) as writer:
        _add(writer, "a.png")
    assert sorted(p.name for p in (tmp_path / "cats" / "images").iterdir()) == ["a.png"]
    assert [p.name for p in tmp_path.iterdir()] == ["cats"]


def test_replaced_data_set_of_a_killed_writer_is_removed_or_given_back(tmp_path):
    with DatasetWriter(tmp_path / "cats", CATMASK_HQ) as writer:
        _add(writer, "a.png")
    shutil.copytree(tmp_path / "cats", tmp_path / ".cats.partial-replaced")
    with DatasetWriter(tmp_path / "cats", CATMASK_HQ, overwrite=True) as writer:
        _add(writer, "b.png")
    assert os.listdir(tmp_path) == ["cats"]
    # Killed between the two renames: only the old one is there, and not to be lost.
    (tmp_path / "cats").rename(tmp_path / ".cats.partial-replaced")
    with (
        pytest.raises(UserError, match="exists already"),
        DatasetWriter(tmp_path / "cats", CATMASK_HQ),
    ):
        pass
    assert open_dataset(tmp_path / "cats")[1].names == ("b.png",)
    assert os.listdir(tmp_path) == ["cats"]


def test_second_writer_of_a_place_is_refused(tmp_path):
    with DatasetWriter(tmp_path / "cats", CATMASK_HQ) as writer:
        with (
            pytest.raises(UserError, match="another process is writing"),
            DatasetWriter(tmp_path / "cats", CATMASK_HQ),
        ):
            pass
        _add(writer, "a.png")
    assert len(open_dataset(tmp_path / "cats")[1].names) == 1


def test_folder_with_files_of_the_user_is_not_overwritten(tmp_path):
    with DatasetWriter(tmp_path / "cats", CATMASK_HQ) as writer:
        _add(writer, "a.png")
    (tmp_path / "cats" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds more than a data set, first notes.txt"):
        DatasetWriter(tmp_path / "cats", CATMASK_HQ, overwrite=True)


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


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"residual": math.nan}, "camera_residuals of a.png are nan; use numbers of at least 0"),
        ({"attributes": {"x": math.inf}}, "attributes of a.png are"),
        ({"attributes": {"x": "big"}}, "attributes of a.png are"),
    ],
)
def test_writer_refuses_what_no_reader_takes(tmp_path, extra, message):
    with (
        pytest.raises(UserError, match=message),
        DatasetWriter(tmp_path / "cats", CATMASK_HQ) as writer,
    ):
        _add(writer, "a.png", **extra)
    assert not list(tmp_path.iterdir())
