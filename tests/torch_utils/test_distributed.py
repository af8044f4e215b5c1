"""Processes of one run agree on values, gradients and failures."""

import json

import pytest
import torch

from tests.torch_utils.distributed_processes import run_processes, torchrun_environments
from torch_utils import distributed
from torch_utils.distributed import DistributedError, World, launched_world
from torch_utils.launchers import first_host

CODE = """
import json, time
from datetime import timedelta
import torch
from torch_utils import distributed as d
from torch_utils.distributed import *

told = {}

def gradients(rank):
    a, b, c, e = (torch.nn.Parameter(torch.zeros(2)) for _ in range(4))
    frozen = torch.nn.Parameter(torch.zeros(2), requires_grad=False)
    a.grad = torch.full((2,), 1.0 + rank)
    if rank == 1:
        b.grad = torch.full((2,), 12.0)
    e.grad = torch.tensor([1.0, 2.0])
    average_gradients([a, frozen, b, c, e])
    told["gradients"] = [None if p.grad is None else p.grad.tolist() for p in (a, b, c, e)]

def buckets(rank):
    d._BUCKET_BYTES = 40
    torch.manual_seed(rank)
    parameters = [torch.nn.Parameter(torch.zeros(n, 3)) for n in (1, 5, 2, 7)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    sums = [all_reduce_sum(p.grad) for p in parameters]
    average_gradients(parameters)
    told["buckets"] = all(torch.allclose(p.grad, s / 3) for p, s in zip(parameters, sums))

def values(rank):
    layer = torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(layer.weight, rank + 5.0)
    layer.num_batches_tracked += rank + 1
    broadcast_weights([layer])
    told["weights"] = [layer.weight.tolist(), layer.num_batches_tracked.item()]
    told["sum"] = all_reduce_sum(torch.tensor([1.0, rank])).tolist()
    told["any"] = [any_process(rank == 1), any_process(False)]
    told["object"] = broadcast_object({"rank": rank})
    told["is_main"] = is_main()

def main_alone(rank):
    told["ran"] = False
    def note():
        told["ran"] = True
        time.sleep(4.5)
    start = time.monotonic()
    run_on_main(note)
    told["waited"] = time.monotonic() - start
    def fail():
        raise ValueError("disk full")
    try:
        run_on_main(fail)
    except ValueError as error:
        told["error"] = str(error)
    barrier()

d.TIMEOUT = timedelta(seconds=4)
with distributed("cpu") as world:
    for check in (gradients, buckets, values, main_alone):
        check(world.rank)
print(json.dumps(told))
"""
LAUNCHER_VARIABLES = (
    "RANK WORLD_SIZE LOCAL_RANK SLURM_PROCID SLURM_STEP_NUM_TASKS SLURM_LOCALID SLURM_NTASKS "
    "SUBMITIT_LOCAL_GLOBALID SUBMITIT_LOCAL_NTASKS SUBMITIT_LOCAL_LOCALID"
).split()


@pytest.fixture
def environment(monkeypatch):
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def set_all(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return set_all


@pytest.fixture(scope="module")
def told() -> list[dict]:
    """Run the code below on three processes; what each found out under each name."""
    results = run_processes(["-c", CODE], torchrun_environments(3))
    for result in results:
        assert result.returncode == 0, result.stderr
    return [json.loads(result.stdout) for result in results]


def test_world_without_launcher_is_one_process(environment):
    assert launched_world() == World(0, 1, 0)


def test_world_is_read_from_each_launcher(environment):
    environment(SLURM_PROCID=5, SLURM_STEP_NUM_TASKS=8, SLURM_LOCALID=1)
    assert launched_world() == World(5, 8, 1)
    environment(SUBMITIT_LOCAL_GLOBALID=1, SUBMITIT_LOCAL_NTASKS=2, SUBMITIT_LOCAL_LOCALID=1)
    assert launched_world() == World(1, 2, 1)
    environment(RANK=3, WORLD_SIZE=4, LOCAL_RANK=3)
    assert launched_world() == World(3, 4, 3)


def test_batch_script_that_srun_did_not_start_is_alone(environment):
    environment(SLURM_PROCID=0, SLURM_NTASKS=8, SLURM_LOCALID=0)
    assert launched_world() == World(0, 1, 0)


def test_senseless_environment_is_named(environment):
    environment(RANK=4, WORLD_SIZE=4, LOCAL_RANK=0)
    with pytest.raises(DistributedError, match="RANK=4, WORLD_SIZE=4"):
        launched_world()
    environment(RANK="x")
    with pytest.raises(DistributedError, match="RANK='x' must be a number"):
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


def test_alone_everything_returns_what_it_got(environment):
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.full((2,), 3.0)
    with distributed.distributed("cpu") as world:
        assert world == World()
        distributed.average_gradients([weight])
        assert weight.grad.tolist() == [3, 3]
        assert distributed.all_reduce_sum(torch.tensor(2.0)) == 2
        assert distributed.any_process(True) and not distributed.any_process(False)
        assert distributed.broadcast_object("a") == "a"
        assert distributed.is_main()


def test_gradients_are_averaged_and_missing_ones_are_zeros(told):
    expected = [[2.0, 2.0], [4.0, 4.0], None, [1.0, 2.0]]
    assert [one["gradients"] for one in told] == [expected] * 3


def test_many_buckets_give_the_mean(told):
    assert all(one["buckets"] for one in told)


def test_sums_flags_objects_and_weights_reach_all(told):
    for rank, one in enumerate(told):
        assert one["sum"] == [3.0, 3.0]
        assert one["any"] == [True, False]
        assert one["object"] == {"rank": 0}
        assert one["weights"] == [[5.0, 5.0], 1]
        assert one["is_main"] == (rank == 0)


def test_failure_on_main_is_raised_on_all_and_only_main_runs(told):
    assert [one["ran"] for one in told] == [True, False, False]
    assert [one["error"] for one in told] == ["disk full"] * 3


def test_others_wait_for_main_longer_than_the_timeout_of_the_backend(told):
    assert all(one["waited"] >= 4 for one in told)
