"""Files and folders appear complete, with ordinary permissions, or not at all."""

import pytest
import torch

from mate3d import atomic
from mate3d.atomic import (
    atomic_file,
    atomic_files,
    atomic_folder,
    remove_folder,
    remove_leftovers,
    standing_folder,
)
from mate3d.checkpoints.storage import save_weights
from mate3d.errors import UserError
from tests.processes import error_with_file_limit, killed_at_line, run_on_small_disk


def test_files_replace_those_of_their_names_only(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    with atomic_files(tmp_path) as temporary:
        (temporary / "a").write_text("new")
        (temporary / "c").write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a": "new",
        "b": "old",
        "c": "new",
    }


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "deep/folder") as temporary:
            (temporary / text).write_text(text)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["folder"]
    assert [path.name for path in (tmp_path / "deep/folder").iterdir()] == ["second"]


@pytest.mark.parametrize("writer", [atomic_file, atomic_files, atomic_folder])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_what_was_there(tmp_path, writer, error):
    with atomic_files(tmp_path / "target") as temporary:
        (temporary / "name").write_text("old")
    target = tmp_path / "target" / ("name" if writer is atomic_file else "")
    with pytest.raises(error), writer(target) as temporary:
        (temporary if writer is atomic_file else temporary / "name").write_text("new")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert [path.read_text() for path in (tmp_path / "target").iterdir()] == ["old"]


@pytest.mark.parametrize("writer", [atomic_file, atomic_files, atomic_folder])
def test_a_place_that_cannot_be_written_is_named(tmp_path, writer):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot write .*taken"), writer(tmp_path / "taken/x"):
        raise AssertionError("the block must not run")


def test_a_file_that_cannot_replace_a_folder_is_named(tmp_path):
    (tmp_path / "name").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*/name: Is a directory"):
        with atomic_file(tmp_path / "name") as temporary:
            temporary.write_text("")


def test_permissions_are_ordinary(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    save_weights(tmp_path / "weights.safetensors", {"x": torch.ones(1)})
    with atomic_file(tmp_path / "atomic_file") as temporary:
        temporary.write_text("")
    with atomic_folder(tmp_path / "atomic_folder"):
        pass
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes["weights.safetensors"] == modes["atomic_file"] == modes["file"]
    assert modes["atomic_folder"] == modes["folder"]


def replace_folder(folder, text):
    with atomic_folder(folder) as temporary:
        for name in ("a", "b"):
            (temporary / name).write_text(text)


def without_exchange(monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)


@pytest.mark.parametrize("has_exchange", [True, False])
def test_a_kill_at_any_line_leaves_one_complete_folder(tmp_path, monkeypatch, has_exchange):
    if not has_exchange:
        without_exchange(monkeypatch)
    folder, moment, seen, missing = tmp_path / "folder", 1, set(), 0
    replace_folder(folder, "old")
    while killed_at_line(lambda: replace_folder(folder, "new"), moment, atomic):
        missing += not folder.exists()
        for found in (standing_folder(folder), folder):
            texts = {path.name: path.read_text() for path in found.iterdir()}
            assert texts in ({"a": "old", "b": "old"}, {"a": "new", "b": "new"})
            seen.add(texts["a"])
            remove_leftovers(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]
        replace_folder(folder, "old")
        moment += 1
    assert moment > 20 and seen == {"old", "new"}
    assert (missing == 0) == has_exchange


@pytest.mark.parametrize("writer", [atomic_file, atomic_files])
def test_a_kill_at_any_line_leaves_the_old_or_the_new_file(tmp_path, writer):
    path, moment = tmp_path / "name", 1

    def write(text):
        with writer(path if writer is atomic_file else tmp_path) as temporary:
            (temporary if writer is atomic_file else temporary / "name").write_text(text)

    write("old")
    while killed_at_line(lambda: write("new"), moment, atomic):
        assert path.read_text() in ("old", "new")
        remove_leftovers(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["name"]
        moment += 1
    assert moment > 10 and path.read_text() == "new"


def test_without_exchange_folders_are_replaced_as_well(tmp_path, monkeypatch):
    without_exchange(monkeypatch)
    for text in ("first", "second"):
        replace_folder(tmp_path / "folder", text)
    assert (tmp_path / "folder" / "a").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_an_exchange_that_fails_for_another_reason_is_an_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        atomic._exchange(tmp_path / "a", tmp_path / "b")


def test_a_removed_folder_is_gone_and_a_missing_one_is_named(tmp_path):
    replace_folder(tmp_path / "folder", "text")
    remove_folder(tmp_path / "folder")
    with pytest.raises(UserError, match="cannot remove .*/folder: No such file"):
        remove_folder(tmp_path / "folder")
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer", [atomic_file, atomic_folder])
def test_a_file_that_cannot_grow_names_its_place_and_harms_nothing(tmp_path, writer):
    replace_folder(tmp_path / "target", "old")
    target = tmp_path / "target" / ("a" if writer is atomic_file else "")

    def write():
        with writer(target) as temporary:
            (temporary if writer is atomic_file else temporary / "a").write_bytes(bytes(20_000))

    message = error_with_file_limit(write, 10_000)
    assert message == f"UserError: cannot write {target}: File too large"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "target"]
    assert (tmp_path / "target" / "a").read_text() == "old"


def test_a_full_disk_is_one_line_that_names_the_place(tmp_path):
    program = """
import sys
from pathlib import Path
from mate3d.atomic import atomic_folder
from mate3d.errors import UserError
folder = Path(sys.argv[1]) / "folder"
with atomic_folder(folder) as temporary:
    (temporary / "a").write_text("old")
try:
    with atomic_folder(folder) as temporary:
        (temporary / "a").write_bytes(bytes(2_000_000))
except UserError as error:
    print(error)
print((folder / "a").read_text(), len(list(Path(sys.argv[1]).iterdir())))
"""
    lines = run_on_small_disk(program, str(tmp_path), size="1m").splitlines()
    assert lines[0].startswith(f"cannot write {tmp_path}/folder: No space left on device; free")
    assert lines[1] == "old 1"
