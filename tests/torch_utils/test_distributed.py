"""Processes of one run agree on values, gradients and failures."""

import time
from datetime import timedelta

import pytest
import torch

from tests.processes import run_launched
from torch_utils import distributed as d
from torch_utils import launchers
from torch_utils.launchers import DistributedError, World, first_host, launched_world

TORCHRUN = dict(zip(("RANK", "WORLD_SIZE", "LOCAL_RANK"), "343", strict=True))
SLURM = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}
SLURM |= {"SLURM_STEP_NODELIST": "gpu[003-007,011]", "SLURM_JOB_ID": "120001"}
SLURM_BATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}
SUBMITIT = {"SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_NTASKS": "2"}
SUBMITIT |= {"SUBMITIT_LOCAL_LOCALID": "1", "SUBMITIT_LOCAL_JOB_ID": "21007"}


@pytest.mark.parametrize(
    ("environment", "place", "meeting_place"),
    [
        ({}, World(), (None, None)),
        (SLURM_BATCH, World(), (None, None)),
        (SLURM, World(5, 8, 1), ("gpu003", "12001")),
        (SLURM | SUBMITIT, World(1, 2, 1), ("127.0.0.1", "13007")),
        (SLURM | TORCHRUN, World(3, 4, 3), (None, None)),
    ],
)
def test_place_is_read_from_each_launcher(environment, place, meeting_place, monkeypatch):
    variables = dict(environment)
    monkeypatch.setattr(launchers.os, "environ", variables)
    assert launched_world() == place
    assert (variables.get("MASTER_ADDR"), variables.get("MASTER_PORT")) == meeting_place
    # Again, from torchrun's variables that the others were translated to.
    assert launched_world() == place


@pytest.mark.parametrize("rank", ["x", ""])
def test_senseless_environment_is_named(rank, monkeypatch):
    values = {"RANK": rank, "WORLD_SIZE": "4", "LOCAL_RANK": "0"}
    monkeypatch.setattr(launchers.os, "environ", values)
    with pytest.raises(DistributedError, match="RANK"):
        launched_world()


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu7", "gpu7"),
        ("gpu[003-007,011],login1", "gpu003"),
        ("a-b-1.lab.org,a-b-2.lab.org", "a-b-1.lab.org"),
        ("n[1,4]-ib", "n1-ib"),
    ],
)
def test_first_host_of_slurm_lists(nodes, host):
    assert first_host(nodes) == host


def test_alone_everything_returns_what_it_got():
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.full((2,), 3.0)
    with d.distributed("cpu") as world:
        assert world == World()
        d.average_gradients([weight])
        assert weight.grad.tolist() == [3, 3]
        assert d.all_reduce_sum(torch.tensor(2.0)) == 2
        assert d.any_process(True) and not d.any_process(False)
        assert d.broadcast_object("a") == "a"
        assert d.is_main()


def gradients_are_averaged_and_missing_ones_are_zeros(rank: int) -> None:
    a, b, c, e = (torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(4))
    frozen = torch.nn.Parameter(torch.zeros(2), requires_grad=False)
    a.grad = torch.full((2, 3), 1.0 + rank)
    if rank == 1:
        b.grad = torch.full((2, 3), 12.0)
    e.grad = torch.arange(6.0).view(3, 2).T
    d.average_gradients([a, frozen, b, c, e])
    assert a.grad.eq(2).all() and b.grad.eq(4).all()
    assert c.grad is None and frozen.grad is None
    assert e.grad.tolist() == [[0, 2, 4], [1, 3, 5]]


def sums_flags_objects_and_weights_reach_all(rank: int) -> None:
    layer = torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(layer.weight, rank + 5.0)
    layer.num_batches_tracked += rank + 1
    d.broadcast_weights([layer])
    assert layer.weight.tolist() == [5, 5] and layer.num_batches_tracked == 1
    assert d.all_reduce_sum(torch.tensor([1.0, rank])).tolist() == [3, 3]
    assert d.any_process(rank == 1) and not d.any_process(False)
    assert d.broadcast_object({"rank": rank}) == {"rank": 0}
    assert d.is_main() == (rank == 0)


def others_wait_for_main_longer_than_the_timeout_of_the_backend(rank: int) -> None:
    ran = []
    start = time.monotonic()
    # What the function returns cannot travel, and need not.
    d.run_on_main(lambda: (ran.append(rank), time.sleep(4.5), lambda: 0))
    assert ran == [0] * (rank == 0)
    assert time.monotonic() - start >= 4
    assert not d.any_process(False)


@pytest.mark.parametrize(
    "check",
    [
        gradients_are_averaged_and_missing_ones_are_zeros,
        sums_flags_objects_and_weights_reach_all,
        others_wait_for_main_longer_than_the_timeout_of_the_backend,
    ],
)
def test_three_processes_agree(check):
    def work() -> None:
        d.TIMEOUT = timedelta(seconds=4)
        with d.distributed("cpu") as world:
            check(world.rank)

    run_launched(work, 3)
