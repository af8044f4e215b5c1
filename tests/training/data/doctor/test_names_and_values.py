"""Hostile names and absurd numbers become findings; nothing is written outside of the output."""

import json
import zipfile
from pathlib import Path

import pytest

from tests.training.data.doctor.broken import OpenDataset
from training.data.doctor import check_dataset, fix_dataset


def _pack(data: OpenDataset, path: Path, evil: str) -> Path:
    """Pack the data set into a zip in which item 3 is called `evil`."""
    text = (data.path / "dataset.json").read_text()
    old, new = json.dumps(data.names[3]), json.dumps(evil)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dataset.json", text.replace(old, new))
        for folder in ("images", "masks"):
            for name in data.names:
                target = evil if name == data.names[3] else name
                archive.writestr(f"{folder}/{target}", (data.path / folder / name).read_bytes())
    return path


@pytest.mark.parametrize("evil", ["../../../evil/e.png", "/{}/evil/e.png"])
@pytest.mark.parametrize("output", ["repaired", "repaired.zip"])
def test_names_that_lead_outside_are_left_out(open_copy, tmp_path, evil, output) -> None:
    evil = evil.format(tmp_path)
    path = _pack(open_copy("cats"), tmp_path / "evil.zip", evil)
    assert check_dataset(path).find("name_unsafe").names == (evil,)
    result = fix_dataset(path, "all", tmp_path / "a/b/c/d" / output)
    assert result.num_written == 23 and result.dropped[evil] == "name_unsafe"
    assert not list(tmp_path.rglob("evil")) and not list(tmp_path.rglob("e.png"))


def test_backslashes_of_a_zip_are_named(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    path = tmp_path / "windows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(data.path / "dataset.json", "dataset.json")
        archive.write(data.image_file(data.names[0]), "images\\00000\\a.png")
    assert check_dataset(path).find("name_unsafe").names == ("images\\00000\\a.png",)


INDEXES = {
    "deep": ("[" * 100_000, "index_invalid"),
    "long number": ('{"labels": [["a.png", [1' + "0" * 5000 + "]]]}", "index_invalid"),
    "huge camera": (json.dumps({"labels": [["a.png", [10**400] * 25]]}), "unpaired"),
    "empty names": (json.dumps({"labels": [["", [1] * 25], ["/", [1] * 25]]}), "unpaired"),
    "huge repeats": (json.dumps({"labels": [], "repeats": {"a.png": 10**30}}), "entries_invalid"),
    "infinite": ('{"labels": [], "camera_residuals": {"a.png": Infinity}}', "entries_invalid"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_absurd_index_is_read_without_a_crash(open_copy, name) -> None:
    data = open_copy("cats")
    text, code = INDEXES[name]
    (data.path / "dataset.json").write_text(text)
    diagnosis = check_dataset(data.path, max_images=1)
    assert diagnosis.find(code) and all("\n" not in one.message for one in diagnosis.findings)
