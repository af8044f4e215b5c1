"""A prior is trained alike by one process, in parts of a batch, and by two processes."""

import json
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from mate3d.checkpoints.storage import load_document
from scripts import train_prior
from tests.processes import run_launched
from tests.scripts.test_long_runs import assert_same_end, signal_in
from tests.torch_utils.distributed_processes import fork_processes
from tests.training.prior.test_trainer import TINY
from tests.training.test_parts import distance
from training.prior.models import make_tiny_networks, save_prior

WORDS = [
    *("debug=tiny", "precision=fp32", "num_samples=1", "prior.resolution=16"),
    *("prior.diffusion.batch_size=4", "prior.diffusion.warmup_steps=1"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    torch.manual_seed(0)
    save_prior(folder, make_tiny_networks(TINY, ["cat number 1"], 16), with_base=True)
    return folder


@pytest.fixture
def words(dataset_folder, base) -> dict[str, list[str]]:
    """What to train: everything, or a ControlNet with all that saves memory."""
    return {
        "small": [f"data={dataset_folder}"],
        "controlnet": [
            *(f"data={dataset_folder}", "prior=controlnet", f"prior.base={base}"),
            *("prior.diffusion.learning_rate=1e-3", "prior.diffusion.accumulation=2"),
        ],
    }


def train(output: Path, words: list[str], size: int) -> Path:
    run_launched(lambda: train_prior.main([*WORDS, *words, f"output={output}"]), size)
    return output


def losses_of(run: Path) -> dict[str, list[float]]:
    records = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    names = {name for record in records for name in record if name.startswith("Loss/")}
    return {name: [record[name] for record in records if name in record] for name in names}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "size", "accumulation"),
    [("small", 2, 1), ("small", 1, 2), ("controlnet", 2, 2)],
)
def test_division_of_a_batch_does_not_change_what_is_trained(
    words, tmp_path, kind, size, accumulation
):
    def divide(number: int) -> list[str]:
        return [*words[kind], f"prior.diffusion.accumulation={number}"]

    plain = [*divide(1), "prior.diffusion.gradient_checkpointing=false"]
    whole = train(tmp_path / "whole", plain, 1)
    divided = train(tmp_path / "divided", divide(accumulation), size)
    losses, expected_losses = losses_of(divided), losses_of(whole)
    assert losses.keys() == expected_losses.keys()
    for name, values in expected_losses.items():
        assert losses[name] == pytest.approx(values, rel=1e-5), name
    state, expected = (load_document(run / "training_state.pt") for run in (divided, whole))
    start = load_document(whole / "training_state.previous.pt")
    for networks in ("networks", "averages"):
        moved = distance(expected[networks], start[networks])
        assert moved > 1e-3
        assert distance(state[networks], expected[networks]) < 0.01 * moved, networks


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_two_processes_stop_together_and_resume_exactly(words, tmp_path, number):
    words = [*WORDS, *words["controlnet"]]
    expected, run = tmp_path / "expected", tmp_path / "run"
    run_launched(partial(train_prior.main, [*words, f"output={expected}"]))
    with signal_in(3, number):
        results = fork_processes(partial(train_prior.main, [*words, f"output={run}"]), 2)
    if number == signal.SIGTERM:
        assert [result.returncode for result in results] == [0, 0], results[0].stderr
        assert "stopped at diffusion step 3 of 4" in results[0].stdout
        assert "to resume, launched as before" in results[0].stdout
        assert "stopped" not in results[1].stdout
    run_launched(partial(train_prior.main, [*words, f"output={run}", "resume=true"]))
    assert_same_end(run, expected)


def test_batch_that_cannot_be_divided_is_refused(words, tmp_path, fail):
    line = fail(
        train_prior.main,
        *WORDS,
        *words["controlnet"],
        f"output={tmp_path / 'run'}",
        "prior.diffusion.accumulation=3",
    )
    assert "prior.diffusion.batch_size=4; use a multiple of 3" in line
