"""Weights & Biases gets a run's options and its folder, and one line says what is missing."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from mate3d.errors import UserError
from training.run_folder.observers import mirrored_online


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in that notes the arguments of its runs, and sees TensorBoard's writers."""
    module = SimpleNamespace(runs=[])
    monkeypatch.setitem(sys.modules, "wandb", module)

    def init(**arguments):
        module.runs.append(arguments)
        return nullcontext()

    module.init = init
    return module


def test_a_run_is_mirrored_with_its_options_from_its_folder(tmp_path, wandb):
    with mirrored_online(tmp_path / "run", "faces", {"train.seed": 3}):
        assert list((tmp_path / "run").glob("events.out.tfevents.*"))
    (run,) = wandb.runs
    assert (run["project"], run["name"], run["config"]) == ("faces", "run", {"train.seed": 3})
    assert run["sync_tensorboard"] and run["dir"] == tmp_path
    with mirrored_online(tmp_path / "other", None, {}):
        assert len(wandb.runs) == 1


def test_missing_library_or_login_is_one_line(tmp_path, wandb, monkeypatch):
    def refuse(**arguments):
        raise RuntimeError("no API key")

    wandb.init = refuse
    with pytest.raises(UserError, match="train.wandb=faces: no API key; .*wandb login"):
        mirrored_online(tmp_path, "faces", {})
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'mate3d\[wandb\]'"):
        mirrored_online(tmp_path, "faces", {})
