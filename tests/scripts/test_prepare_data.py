"""prepare_data writes procedural cats that the data set reads, and refuses wrong input."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts import prepare_data
from training.data.dataset import PortraitDataset


def _prepare(tmp_path: Path, output: str, *words: str) -> Path:
    path = tmp_path / output
    fixed = ["debug=tiny", f"output={path}", f"paths.outputs={tmp_path / 'runs'}"]
    prepare_data.main([*fixed, *words])
    return path


def test_folder_and_archive_hold_the_same_cats(tmp_path):
    folder = PortraitDataset(_prepare(tmp_path, "cats"))
    archive = PortraitDataset(_prepare(tmp_path, "cats.zip", "batch_size=3", "num_images=5"))
    assert len(folder) == 8 and len(archive) == 5
    assert folder.resolution == 32 and folder.label_set.name == "catmask_hq"
    for index in range(5):
        first, second = folder[index], archive[index]
        assert first.pop("caption") == second.pop("caption") != ""
        torch.testing.assert_close(first, second)


def test_cats_differ_between_images_and_seeds(tmp_path):
    first = PortraitDataset(_prepare(tmp_path, "first"))
    second = PortraitDataset(_prepare(tmp_path, "second", "seed=1"))
    images = [first[0]["image"], first[1]["image"], second[0]["image"], second[1]["image"]]
    assert len({image.numpy().tobytes() for image in images}) == 4
    assert len({tuple(camera.tolist()) for camera in first.camera_labels}) == 8


@pytest.mark.slow
def test_workers_change_nothing(tmp_path):
    alone = _prepare(tmp_path, "alone.zip")
    shared = _prepare(tmp_path, "shared.zip", "num_workers=2", "batch_size=2")
    assert shared.read_bytes() == alone.read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["output="], "missing value, please give: output=... (see --help)"),
        (["num_images=0"], "option num_images=0 must be at least 1"),
        (["seed=-1"], "option seed=-1 must be at least 0"),
        (["dataset.label_set=dogs"], "unknown label set 'dogs'"),
    ],
)
def test_wrong_values_are_named(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as info:
        _prepare(tmp_path, "cats", *words)
    assert info.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not (tmp_path / "cats").exists()


def test_existing_output_is_kept_unless_overwritten(tmp_path, capsys):
    path = _prepare(tmp_path, "cats.zip", "num_images=2")
    before = path.read_bytes()
    with pytest.raises(SystemExit) as info:
        _prepare(tmp_path, "cats.zip", "num_images=3")
    assert info.value.code == 2 and "exists already" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert (
        len(PortraitDataset(_prepare(tmp_path, "cats.zip", "num_images=3", "overwrite=true"))) == 3
    )


def test_process_ends_with_one_line_and_exit_code_2(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "scripts.prepare_data", "num_imgaes=3"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert (
        result.stderr == "error: unknown option 'num_imgaes'; did you mean num_images or images?\n"
    )
