"""Files and folders appear complete, with ordinary permissions, or not at all."""

import pytest
import torch

from mate3d.atomic import atomic_file, atomic_files, atomic_folder
from mate3d.errors import UserError
from mate3d.storage import save_weights


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


@pytest.mark.parametrize("atomic", [atomic_file, atomic_files, atomic_folder])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_what_was_there(tmp_path, atomic, error):
    with atomic_files(tmp_path / "target") as temporary:
        (temporary / "name").write_text("old")
    target = tmp_path / "target" / ("name" if atomic is atomic_file else "")
    with pytest.raises(error), atomic(target) as temporary:
        (temporary if atomic is atomic_file else temporary / "name").write_text("new")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert [path.read_text() for path in (tmp_path / "target").iterdir()] == ["old"]


@pytest.mark.parametrize("atomic", [atomic_file, atomic_files, atomic_folder])
def test_a_place_that_cannot_be_written_is_named(tmp_path, atomic):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot write .*taken"), atomic(tmp_path / "taken/x"):
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
