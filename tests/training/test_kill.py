"""A process that is killed while it saves leaves a checkpoint and a state that can be loaded."""

import itertools
import time
from unittest.mock import Mock

import pytest
import torch

from mate3d import atomic
from mate3d.checkpoint import load_generator, save_generator
from mate3d.checkpoints.storage import load_document
from tests.processes import killed_after, killed_at_line
from training.run_folder import retention, state_file
from training.run_folder.careful_loop import only_writer
from training.run_folder.retention import CHECKPOINT_FOLDER, keep_checkpoints
from training.run_folder.safety import CHECKPOINTS_FOLDER, SafetySettings
from training.run_folder.state_file import STATE_FILE, previous_path
from training.state import load_state, save_state

SETTINGS = SafetySettings(keep_last=1, keep_best=1)


def snapshot(folder, state, images_seen):
    """Save everything, each weight of the average being the number of images."""
    state.images_seen = images_seen
    with torch.no_grad():
        for parameter in state.average.parameters():
            parameter.fill_(images_seen)
    save_generator(folder / CHECKPOINT_FOLDER, state.average)
    # The second snapshot is the best one and stays.
    metrics = {"Metrics/fid_procedural": float(abs(images_seen - 2))}
    keep_checkpoints(folder, images_seen, metrics, SETTINGS)
    save_state(folder / STATE_FILE, state)


def check(folder, resumed, possible):
    """Return the images of the state that is found; whatever is there must be whole."""

    def images_of(checkpoint):
        weights = torch.cat([p.flatten() for p in load_generator(checkpoint).parameters()])
        assert weights.min() == weights.max()
        return weights[0].item()

    load_state(folder / STATE_FILE, resumed)
    assert resumed.images_seen in possible
    assert next(resumed.average.parameters()).min() == resumed.images_seen
    assert images_of(folder / CHECKPOINT_FOLDER) in possible
    for path in (folder / CHECKPOINTS_FOLDER).glob("0*"):
        assert images_of(path) == int(path.name)
    return resumed.images_seen


@pytest.fixture
def run(make_trainer, tmp_path):
    """A run folder with three snapshots, the state that made them, and one to load into."""
    _, state = make_trainer(tmp_path / "run")
    _, resumed = make_trainer(tmp_path / "other")
    for images_seen in (1, 2, 3):
        snapshot(tmp_path / "run", state, images_seen)
    return tmp_path / "run", state, resumed


@pytest.mark.parametrize(("has_links", "stride"), [(True, 23), (False, 37)])
def test_a_kill_at_any_line_of_a_snapshot_loses_nothing(run, monkeypatch, has_links, stride):
    folder, state, resumed = run
    if not has_links:
        monkeypatch.setattr(state_file.os, "link", Mock(side_effect=PermissionError))
    # All lines of the two modules take a minute; these are spread over them.
    moments = itertools.count(1, stride)
    while killed_at_line(lambda: snapshot(folder, state, 4), next(moments), atomic, retention):
        check(folder, resumed, {3, 4})
        with only_writer(folder):
            assert not [*folder.rglob(".partial*"), *folder.rglob(".replaced*")]
        assert (folder / CHECKPOINT_FOLDER).is_dir()
        if resumed.images_seen == 4:
            snapshot(folder, state, 3)
    assert next(moments) > 300 and check(folder, resumed, {4}) == 4
    kept = sorted(path.name for path in (folder / CHECKPOINTS_FOLDER).glob("0*"))
    assert kept == ["000000002", "000000004"]


def test_a_kill_after_any_time_loses_nothing(run):
    folder, state, resumed = run
    start = time.monotonic()
    snapshot(folder, state, 3)
    seconds = time.monotonic() - start

    def save_again_and_again():
        for images_seen in itertools.count(resumed.images_seen + 1):
            snapshot(folder, state, images_seen)

    resumed.images_seen, num_rounds = 3, 0
    # Processes are slower at times than the snapshot timed above: go on until some were whole.
    while num_rounds < 5 or (resumed.images_seen <= 5 and num_rounds < 40):
        before = resumed.images_seen
        assert killed_after(save_again_and_again, seconds * (1 + num_rounds / 2))
        check(folder, resumed, range(before, before + 100))
        with only_writer(folder):
            pass
        num_rounds += 1
    assert resumed.images_seen > 5
    assert load_document(previous_path(folder / STATE_FILE))["images_seen"] >= 3
