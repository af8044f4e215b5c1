"""A batch trains alike at once, in parts one after the other, and spread over two processes."""

import json

import pytest
import torch
from tests.training.parts_training import train_and_save

from mate3d.errors import UserError
from torch_utils.batch_random import BatchRandom
from torch_utils.distributed import World
from training.parts import BatchParts


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
    torch.testing.assert_close(whole, torch.stack(parts, dim=1).flatten(0, 1), rtol=0, atol=0)
    assert len(whole.flatten().unique()) == 30


def test_shared_random_numbers_are_those_of_no_sample():
    first, second = BatchRandom((1,), range(4)), BatchRandom((1,), range(2, 4))
    shared = torch.rand(3, generator=first.shared)
    torch.testing.assert_close(shared, torch.rand(3, generator=second.shared), rtol=0, atol=0)
    assert not any(shared.equal(row) for row in first.rand((4, 3)))


def test_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match="train.batch_size=8 must be a multiple of 6: 2 processes"):
        BatchParts(8, accumulation=3, world=World(0, 2))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train_and_save(folder)
    return folder


def load(folder):
    return torch.load(folder / "weights.pt", weights_only=True)


def assert_trained_alike(folder, whole):
    expected, found = load(whole), load(folder)
    assert expected["start"].keys() == found["end"].keys()
    for name, start in expected["start"].items():
        torch.testing.assert_close(found["start"][name], start, rtol=0, atol=0)
        torch.testing.assert_close(
            found["end"][name], expected["end"][name], rtol=1e-4, atol=1e-5, msg=name
        )
    moved = [
        name for name, start in expected["start"].items() if not start.equal(expected["end"][name])
    ]
    assert len(moved) > len(expected["start"]) / 2
    stats = [
        json.loads((path / "stats.jsonl").read_text().splitlines()[0]) for path in (whole, folder)
    ]
    for name, value in stats[0].items():
        if name.startswith(("Loss/", "Augment/")):
            assert stats[1][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
