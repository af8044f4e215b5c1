"""A batch trains alike at once, in parts one after the other, and spread over two processes."""

import json
from pathlib import Path

import pytest
import torch

from mate3d.checkpoints.storage import load_document
from mate3d.errors import UserError
from scripts import prepare_data, train
from tests.processes import run_launched
from tests.torch_utils.distributed_processes import fork_processes
from torch_utils.batch_random import BatchRandom
from torch_utils.distributed import World, world
from training import loop
from training.step_inputs import BatchParts

# Every step, lazy ones and the sphere among them, swapped, mixed, blurred and augmented samples.
WORDS = [
    *("experiment=small_cat", "debug=tiny", "metrics=none", "augment=ada"),
    *("augment.probability=0.5", "augment.interval=1", "augment.ramp_kimg=0.1"),
    *("train.batch_size=8", "train.total_kimg=0.016", "train.sphere_init_steps=1"),
    *("train.tick_kimg=0.024", "schedule.style_mixing_probability=0.5"),
    *("schedule.pose_swap_fade_kimg=0", "model.generator.camera_scale=1.0"),
    *("model.discriminator.stddev_group_size=4", "optimizer.discriminator_reg_interval=2"),
    "optimizer.max_gradient_norm=1.0",
    # By default Adam's first steps are all of one length: rounding decides those of no gradient.
    "optimizer.eps=0.01",
]


def test_each_sample_is_in_one_part_of_one_process():
    places = [
        list(BatchParts(24, accumulation=3, world=World(rank, 2)).places(part))
        for rank in range(2)
        for part in range(3)
    ]
    assert sorted(sum(places, [])) == list(range(24))
    assert places[0] == [0, 6, 12, 18]


def test_random_numbers_of_a_sample_do_not_depend_on_its_company():
    whole = BatchRandom((1, 2), range(6)).randn((6, 5))
    parts = [BatchRandom((1, 2), range(start, 6, 2)).randn((3, 5)) for start in range(2)]
    assert torch.equal(whole, torch.stack(parts, dim=1).flatten(0, 1))
    assert len(whole.flatten().unique()) == 30
    first, second = BatchRandom((1,), range(4)), BatchRandom((1,), range(2, 4))
    shared = torch.rand(3, generator=first.shared)
    assert torch.equal(shared, torch.rand(3, generator=second.shared))
    assert not any(shared.equal(row) for row in first.rand((4, 3)))


def test_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match="train.batch_size=8.* multiple of 6: 2 processes"):
        BatchParts(8, accumulation=3, world=World(0, 2))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    words = ["debug=tiny", "num_images=12", f"output={folder / 'cats'}", f"paths.outputs={folder}"]
    prepare_data.main(words)
    return folder / "cats"


def run_training(data: Path, output: Path, *words: str, num_processes: int = 1) -> Path:
    words = [*WORDS, f"data={data}", f"output={output}", *words]
    if num_processes > 1:
        run_launched(lambda: train.main(words), num_processes)
    else:
        train.main(words)
    return output


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    return run_training(data, tmp_path_factory.mktemp("whole") / "run")


def read_run(folder: Path) -> tuple[dict, dict]:
    state = load_document(folder / "training_state.pt")
    (stats,) = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return state, {k: v for k, v in stats.items() if k.startswith(("Loss/", "Augment/"))}


@pytest.mark.parametrize(
    ("words", "num_processes"),
    [((), 2), (("train.accumulation=2",), 1)],
    ids=["two processes", "two parts"],
)
def test_division_of_a_batch_does_not_change_what_is_trained(
    data, whole, tmp_path, words, num_processes
):
    state, stats = read_run(
        run_training(data, tmp_path / "run", *words, num_processes=num_processes)
    )
    expected_state, expected_stats = read_run(whole)
    assert stats.keys() == expected_stats.keys()
    for name, value in expected_stats.items():
        assert stats[name] == pytest.approx(value, rel=2e-3, abs=1e-4), name
    assert expected_stats["Augment/probability"] != 0.5
    assert (state["iteration"], state["images_seen"]) == (2, 24)
    assert state["data"]["position"] == expected_state["data"]["position"] == 16
    start = load_document(whole / "training_state.previous.pt")
    for network, weights in expected_state["modules"].items():
        moved = distance(weights, start["modules"][network])
        # Rounding, and what Adam and two iterations make of it; another seed gives about 1.
        assert moved > 0.01
        assert distance(state["modules"][network], weights) < 0.01 * moved, network


def test_processes_with_different_weights_end_with_one_line(data, tmp_path):
    original = loop.adversarial_iteration

    def iterate(state, *arguments):
        metrics = original(state, *arguments)
        if world().rank == 1 and state.iteration == 1:
            # The smallest change there is.
            weight = next(state.networks.discriminator.parameters()).data.flatten()[:1]
            weight.copy_(torch.nextafter(weight, torch.tensor(torch.inf)))
        return metrics

    words = ["train.sphere_init_steps=0", "train.tick_kimg=0.008", f"output={tmp_path / 'run'}"]

    def start():
        loop.adversarial_iteration = iterate
        train.main([*WORDS, f"data={data}", *words])

    results = fork_processes(start, 2)
    assert [result.returncode for result in results] == [2, 2]
    (line,) = "".join(result.stderr for result in results).splitlines()
    assert "weights of discriminator of process 1 differ" in line and "at 16 images" in line


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    squares = [(value - second[name]).double().square().sum() for name, value in first.items()]
    return float(sum(squares)) ** 0.5
