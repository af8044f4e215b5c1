"""Files and folders appear complete, with ordinary permissions, or not at all."""

import pytest
import torch

from mate3d import atomic
from mate3d.atomic import (
    AppendedFile,
    atomic_file,
    atomic_files,
    atomic_folder,
    remove_folder,
    remove_leftovers,
    standing_folder,
)
from mate3d.checkpoints.storage import save_weights
from mate3d.errors import UserError
from tests.processes import error_with_file_limit, killed_at_line, on_small_disk

WRITERS = [atomic_file, atomic_files, atomic_folder]


def write(writer, target, text):
    """Write a text to `target/name`, or to `target` itself where it is a file's writer."""
    with writer(target / "name" if writer is atomic_file else target) as temporary:
        (temporary if writer is atomic_file else temporary / "name").write_text(text)


def test_files_replace_those_of_their_names_only(tmp_path):
    write(atomic_files, tmp_path, "old")
    (tmp_path / "other").write_text("old")
    with atomic_files(tmp_path) as temporary:
        for name in ("name", "third"):
            (temporary / name).write_text("new")
        assert (tmp_path / "name").read_text() == "old"
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {"name": "new", "other": "old", "third": "new"}


def test_a_folder_is_replaced_as_a_whole_and_removed(tmp_path, monkeypatch):
    folder = tmp_path / "deep" / "folder"
    for text in ("first", "second"):
        with atomic_folder(folder) as temporary:
            (temporary / text).write_text(text)
        monkeypatch.setattr(atomic, "_MANY_FILES", 0)
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    assert [path.name for path in folder.iterdir()] == ["second"]
    remove_folder(folder)
    assert not list(folder.parent.iterdir())
    with pytest.raises(UserError, match="folder: No such file"):
        remove_folder(folder)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_place_that_cannot_be_written_is_named(tmp_path, writer):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot write .*taken"), writer(tmp_path / "taken/x"):
        raise AssertionError("the block must not run")
    with pytest.raises(UserError, match=f"cannot write {tmp_path}: Is a directory"):
        with atomic_file(tmp_path) as temporary:
            temporary.write_text("")


def test_permissions_are_ordinary(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    save_weights(tmp_path / "weights.safetensors", {"x": torch.ones(1)})
    write(atomic_folder, tmp_path / "atomic_folder", "")
    modes = {path.name: path.stat().st_mode for path in tmp_path.rglob("*")}
    assert modes["weights.safetensors"] == modes["name"] == modes["file"]
    assert modes["atomic_folder"] == modes["folder"]


def test_a_kill_at_any_line_leaves_one_complete_folder(tmp_path):
    folder, moment, seen, missing = tmp_path / "folder", 1, set(), 0
    write(atomic_folder, folder, "old")
    while killed_at_line(lambda: write(atomic_folder, folder, "new"), moment, atomic):
        missing += not folder.exists()
        seen.add((standing_folder(folder) / "name").read_text())
        remove_leftovers(tmp_path, "folder")
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]
        seen.add((folder / "name").read_text())
        write(atomic_folder, folder, "old")
        moment += 1
    assert moment > 20 and seen == {"old", "new"}
    assert missing > 0


def test_a_kill_at_any_line_leaves_the_old_or_the_new_file(tmp_path):
    moment, seen = 1, set()
    write(atomic_file, tmp_path, "old")
    while killed_at_line(lambda: write(atomic_file, tmp_path, "new"), moment, atomic):
        seen.add((tmp_path / "name").read_text())
        remove_leftovers(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["name"]
        moment += 2
    assert moment > 20 and seen == {"old", "new"}


def test_leftovers_of_one_name_go_without_those_of_others(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f".partial.xyz.{name}").mkdir()
        (tmp_path / f".replaced.xyz.{name}").mkdir()
    remove_leftovers(tmp_path, "a")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".partial.xyz.b", ".replaced.xyz.b", "a"]


@pytest.mark.parametrize("writer", WRITERS)
def test_an_interruption_or_a_file_that_cannot_grow_harms_nothing(tmp_path, writer):
    write(writer, tmp_path / "target", "old")
    with pytest.raises(KeyboardInterrupt), writer(tmp_path / "target") as temporary:
        (temporary if writer is atomic_file else temporary / "name").write_text("new")
        raise KeyboardInterrupt
    message = error_with_file_limit(lambda: write(writer, tmp_path / "target", "x" * 999), 500)
    place = tmp_path / "target" / ("name" if writer is atomic_file else "")
    assert message == f"UserError: cannot write {place}: File too large"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["name", "target"]
    assert (tmp_path / "target" / "name").read_text() == "old"


def test_a_full_disk_is_one_line_that_names_the_place(tmp_path):
    def fill_disk():
        write(atomic_folder, tmp_path / "folder", "old")
        try:
            write(atomic_folder, tmp_path / "folder", "x" * 2_000_000)
        finally:
            assert [path.name for path in tmp_path.iterdir()] == ["folder"]
            assert (tmp_path / "folder" / "name").read_text() == "old"

    message = on_small_disk(fill_disk, tmp_path, size="1m")
    expected = f"UserError: cannot write {tmp_path}/folder: No space left on device; free"
    assert message.startswith(expected) and "\n" not in message


def test_records_wait_for_space(tmp_path):
    file = AppendedFile(tmp_path / "missing" / "file")
    for record in (b"aaaa", b"bbbb", b"cccc"):
        with pytest.raises(OSError):
            file.append(record)
    (tmp_path / "missing").mkdir()
    file.flush()
    assert (tmp_path / "missing" / "file").read_bytes() == b"aaaabbbbcccc"
