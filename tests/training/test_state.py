"""The training state refuses what it cannot continue, and a broken write harms nothing."""

import logging
import os
import random
import zipfile
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from mate3d.checkpoints.storage import load_document, save_document
from mate3d.errors import UserError
from tests.processes import error_with_file_limit
from training.run_folder.state_file import STATE_FILE, previous_path, read_state, write_state
from training.state import find_damage, load_state, save_state, set_lr_factor


class Counter:
    """Something that a run changes."""

    def __init__(self, value=0):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def take_step(state):
    """Fill the optimisers' moments."""
    for name, optimizer in state.optimizers.items():
        for parameter in state.modules()[name].parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()


@pytest.fixture
def state(make_trainer, tmp_path):
    return make_trainer(tmp_path)[1]


@pytest.fixture
def path(tmp_path):
    return tmp_path / STATE_FILE


def rename_model(path, state):
    save_state(path, state)
    state.networks.generator.config = state.networks.generator.config.__class__(beta=0.5)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path, state: None, "nothing to resume: .*training_state.pt not found"),
        (lambda path, state: path.write_bytes(b"not a training state"), "cannot be read"),
        (lambda path, state: path.write_bytes(b"PK\x03\x04broken"), "cannot be read"),
        (rename_model, "another model or dataset"),
        (lambda path, state: save_document(path, {"model": ""}), "written by another version"),
    ],
)
def test_what_cannot_be_continued_is_refused(state, path, prepare, message):
    prepare(path, state)
    with pytest.raises(UserError, match=message):
        load_state(path, state)


def test_state_with_other_stages_is_refused(make_trainer, tiny_settings, state, path):
    loop = replace(tiny_settings.loop, sphere_init_steps=3)
    _, other = make_trainer(path.parent, replace(tiny_settings, loop=loop))
    save_state(path, other)
    with pytest.raises(UserError, match="other stages \\(sphere_init\\)"):
        load_state(path, state)


def test_file_that_cannot_grow_keeps_both_states(state, path):
    for _ in range(2):
        take_step(state)
        save_state(path, state)
    before = path.read_bytes(), previous_path(path).read_bytes()
    message = error_with_file_limit(lambda: save_state(path, state), len(before[0]) // 2)
    assert message.startswith(f"UserError: cannot write {path.parent}")
    assert message.endswith(": File too large")
    assert (path.read_bytes(), previous_path(path).read_bytes()) == before
    assert list(path.parent.glob(".*")) == []


def test_previous_state_is_kept_and_taken_when_the_newest_is_damaged(
    make_trainer, state, path, caplog
):
    for state.images_seen in (2, 4, 6):
        save_state(path, state)
    _, resumed = make_trainer(path.parent)
    load_state(path, resumed)
    assert resumed.images_seen == 6 and not caplog.messages
    # In the middle of the longest member, since what lies between members means nothing.
    with zipfile.ZipFile(path) as archive:
        member = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray(path.read_bytes())
    content[member.header_offset + member.file_size // 2 + 256] ^= 1
    path.write_bytes(content)
    load_state(path, resumed)
    assert resumed.images_seen == 4
    assert "cannot be read" in caplog.text and "resuming from" in caplog.text
    path.unlink()
    load_state(path, resumed)
    assert "training_state.pt not found; resuming from" in caplog.text
    previous_path(path).write_bytes(b"")
    path.write_bytes(b"")
    with pytest.raises(UserError, match="training_state.pt cannot.*training_state.previous.pt"):
        load_state(path, resumed)


@pytest.mark.parametrize("link", [os.link, Mock(side_effect=PermissionError)])
def test_previous_state_is_kept_until_it_is_left_alone(state, path, monkeypatch, link):
    monkeypatch.setattr(os, "link", link)
    for state.images_seen, with_previous in ((2, True), (4, True), (6, False)):
        save_state(path, state, with_previous=with_previous)
    assert load_document(path)["images_seen"] == 6
    assert load_document(previous_path(path))["images_seen"] == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_not_saved(state, path, value):
    take_step(state)
    save_state(path, state)
    assert find_damage(state) is None
    adam = state.optimizers["discriminator"].state
    moment = next(iter(adam.values()))["exp_avg_sq"]
    moment.view(-1)[0] = value
    assert find_damage(state) == "optimizers.discriminator.state.0.exp_avg_sq"
    next(state.average.parameters()).data.view(-1)[-1] = value
    with pytest.raises(
        UserError, match="not written: modules.average.* not finite; the previous state"
    ):
        save_state(path, state)
    load_state(path, state)
    assert find_damage(state) is None


def test_extra_parts_are_resumed_or_start_fresh_with_a_warning(state, path, caplog):
    state.extra = {"augmentation": Counter(7), "gone": Counter()}
    save_state(path, state)
    state.extra = {"augmentation": Counter(), "new": Counter(1)}
    with caplog.at_level(logging.WARNING):
        load_state(path, state)
    assert state.extra["augmentation"].value == 7 and state.extra["new"].value == 1
    assert "has no new" in caplog.text and "gone of" in caplog.text


def test_random_numbers_of_every_kind_go_on(state, path):
    def draw():
        return torch.rand(()).item(), random.random(), np.random.randn()

    np.random.randn()  # Leaves a second Gaussian number in store.
    save_state(path, state)
    expected = draw()
    draw()
    load_state(path, state)
    assert draw() == expected


def test_rates_are_those_of_the_configuration_times_the_factor(make_trainer, state, path):
    take_step(state)
    configured = state.optimizers["generator"].param_groups[0]["lr"]
    set_lr_factor(state, 0.5)
    set_lr_factor(state, 0.25)
    assert state.optimizers["generator"].param_groups[0]["lr"] == configured * 0.25
    save_state(path, state)
    _, other = make_trainer(path.parent)
    group = other.optimizers["generator"].param_groups[0]
    group["lr"], group["betas"] = 8.0, (0.5, 0.5)
    load_state(path, other)
    group = other.optimizers["generator"].param_groups[0]
    assert group["lr"] == 2.0 and group["betas"] == (0.5, 0.5)
    load_state(path, other)
    assert other.optimizers["generator"].param_groups[0]["lr"] == 2.0 and other.lr_factor == 0.25


def test_equal_numbers_of_other_types_describe_the_same_model(path):
    write_state(path, {"step": 3}, {"beta": 1, "channels": (8,)})
    assert read_state(path, {"channels": [8], "beta": 1.0})["step"] == 3
