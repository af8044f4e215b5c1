"""The training state refuses what it cannot continue, and a broken write harms nothing."""

import pytest
import torch

from mate3d.errors import UserError
from training import state as state_module
from training.setup import StageSettings
from training.state import STATE_FILE, load_state, save_state


def test_missing_state_is_named(make_trainer, tmp_path):
    _, state = make_trainer(tmp_path)
    with pytest.raises(UserError, match="nothing to resume: .*training_state.pt not found"):
        load_state(tmp_path / STATE_FILE, state)


@pytest.mark.parametrize("content", [b"", b"not a training state", b"PK\x03\x04broken"])
def test_damaged_state_is_named(make_trainer, tmp_path, content):
    _, state = make_trainer(tmp_path)
    (tmp_path / STATE_FILE).write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        load_state(tmp_path / STATE_FILE, state)


def test_state_of_another_model_is_refused(make_trainer, tmp_path):
    _, state = make_trainer(tmp_path)
    save_state(tmp_path / STATE_FILE, state)
    state.networks.generator.config = state.networks.generator.config.__class__(beta=0.5)
    with pytest.raises(UserError, match="another configuration"):
        load_state(tmp_path / STATE_FILE, state)


def test_state_with_other_stages_is_refused(make_trainer, tmp_path):
    _, state = make_trainer(tmp_path, stages=StageSettings(sphere_init_steps=3))
    save_state(tmp_path / STATE_FILE, state)
    _, other = make_trainer(tmp_path)
    with pytest.raises(UserError, match="other stages \\(sphere_init\\)"):
        load_state(tmp_path / STATE_FILE, other)


def test_failed_write_keeps_the_previous_state(make_trainer, tmp_path, monkeypatch):
    _, state = make_trainer(tmp_path)
    save_state(tmp_path / STATE_FILE, state)
    before = (tmp_path / STATE_FILE).read_bytes()

    def fail(_, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(state_module.torch, "save", fail)
    with pytest.raises(UserError, match="no space left"):
        save_state(tmp_path / STATE_FILE, state)
    assert (tmp_path / STATE_FILE).read_bytes() == before
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_state_loads_without_executing_anything(make_trainer, tmp_path):
    _, state = make_trainer(tmp_path)
    save_state(tmp_path / STATE_FILE, state)
    document = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert document["images_seen"] == 0
