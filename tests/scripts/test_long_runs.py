"""All scripts that train stop cleanly, survive kills and resume exactly, one process per folder."""

import os
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from mate3d.checkpoints.storage import load_document
from scripts import _long_run, train, train_features, train_prior
from tests.torch_utils.distributed_processes import fork_processes
from training.feature_network import train as feature_training
from training.run_folder.careful_loop import only_writer
from training.run_folder.monitor import Monitor
from training.run_folder.state_file import STATE_FILE

# Each run has four or six steps, and a snapshot after every second one.
WORDS = {
    "train": [
        *("train.batch_size=2", "train.total_kimg=0.008", "train.tick_kimg=0.002"),
        *("train.snapshot_ticks=2", "train.grid_columns=1", "metrics=none"),
    ],
    "train_prior": ["num_samples=1", "prior.resolution=16"],
    "train_features": ["training.steps=6"],
}
MAINS = {
    "train": train.main,
    "train_prior": train_prior.main,
    "train_features": train_features.main,
}


@pytest.fixture(autouse=True)
def _quick_snapshots(monkeypatch):
    monkeypatch.setattr(feature_training, "_SNAPSHOT_STEPS", 2)


def make_words(script: str, cats: Path, output: Path) -> list[str]:
    data = f"data=[{cats}]" if script == "train_features" else f"data={cats}"
    return ["debug=tiny", data, f"output={output}", *WORDS[script]]


def call(script: str, words: list[str]) -> CompletedProcess:
    """Run a script in a process of its own."""
    (result,) = fork_processes(partial(MAINS[script], words), 1)
    return result


@contextmanager
def signal_in(step: int, number: int) -> Iterator[None]:
    """Make runs that start in the block send themselves a signal in a step."""
    advance, steps = Monitor.advance, iter(range(1, 100))

    def advance_and_send(self: Monitor, images_seen: int) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), number)
        advance(self, images_seen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "advance", advance_and_send)
        yield


@pytest.fixture(scope="module")
def whole_runs(cats: Path, tmp_path_factory) -> Callable[[str], Path]:
    """Return a function that gives the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")

    def get(script: str) -> Path:
        if not (folder / script).exists():
            result = call(script, make_words(script, cats, folder / script))
            assert result.returncode == 0, result.stderr
        return folder / script

    return get


def leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values of a state, without times, options and unused random numbers."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in ("seconds", "param_groups", "random"):
                yield from leaves(item, f"{name}.{key}")
    else:
        yield name, value


def assert_same_end(folder: Path, expected: Path) -> None:
    """Compare networks, averages, optimizers, positions and stored weights bit for bit."""
    state, other = (dict(leaves(load_document(one / STATE_FILE))) for one in (folder, expected))
    assert state.keys() == other.keys() and len(state) > 50
    for name, value in other.items():
        same = value.equal(state[name]) if isinstance(value, torch.Tensor) else value == state[name]
        assert same, name
    stored = [path.relative_to(expected) for path in expected.rglob("*.safetensors")]
    # A stopped run also keeps the checkpoint of its stop.
    stored = [path for path in stored if path.parts[0] != "checkpoints"]
    assert stored
    for path in stored:
        assert (folder / path).read_bytes() == (expected / path).read_bytes(), path


# The prior's first two steps are the autoencoder's.
@pytest.mark.parametrize(
    ("script", "step", "number"),
    [
        # Processes agree to stop before a step is logged; this one is the next to ask.
        pytest.param("train", 2, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("train_prior", 1, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("train_prior", 5, signal.SIGTERM, marks=pytest.mark.slow),
        ("train_features", 3, signal.SIGINT),
    ],
)
def test_signal_saves_and_the_printed_command_resumes_exactly(
    cats, tmp_path, whole_runs, script, step, number
):
    expected = whole_runs(script)
    output = tmp_path / "a run"
    with signal_in(step, number):
        result = call(script, make_words(script, cats, output))
    assert result.returncode == 0, result.stderr
    # Progress bars are for terminals.
    assert "\r" not in result.stderr
    *_, stopped, line = result.stdout.splitlines()
    where = {"train": "iteration 3, 6 images", "train_features": "features step 3 of 6"}
    where["train_prior"] = "autoencoder step 1 of 2" if step == 1 else "diffusion step 3 of 4"
    assert f"stopped at {where[script]}; to resume" in stopped
    command = shlex.split(line)
    assert command[:3] == ["python", "-m", f"scripts.{script}"] and command[-1] == "resume=true"
    result = call(script, command[3:])
    assert result.returncode == 0, result.stderr
    assert_same_end(output, expected)


@pytest.mark.parametrize(
    ("script", "step"),
    [
        pytest.param("train", 4, marks=pytest.mark.slow),
        pytest.param("train_prior", 6, marks=pytest.mark.slow),
        ("train_features", 6),
    ],
)
def test_killed_run_resumes_from_its_last_snapshot(cats, tmp_path, whole_runs, script, step):
    expected = whole_runs(script)
    words = make_words(script, cats, tmp_path / "run")
    with signal_in(step, signal.SIGKILL):
        assert call(script, words).returncode == -signal.SIGKILL
    result = call(script, [*words, "resume=auto"])
    assert result.returncode == 0, result.stderr
    assert_same_end(tmp_path / "run", expected)


@pytest.mark.parametrize("script", WORDS)
def test_one_run_and_one_writer_per_folder(cats, whole_runs, monkeypatch, fail, script):
    folder = whole_runs(script)
    monkeypatch.setattr(_long_run, "only_writer", partial(only_writer, patience_s=0))
    words = make_words(script, cats, folder)
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    line = fail(MAINS[script], *words, "seed=7" if script != "train" else "train.seed=7")
    assert f"{folder} holds a training run; set resume=true" in line
    assert "resume=maybe; use" in fail(MAINS[script], *words, "resume=maybe")
    with only_writer(folder):
        line = fail(MAINS[script], *words, "resume=auto")
    assert f"another process is training in {folder}" in line
    del files[folder / ".training.lock"]
    assert all(path.stat().st_mtime_ns == when for path, when in files.items())
