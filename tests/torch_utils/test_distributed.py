"""Processes of one run agree on values, gradients and failures."""

import pytest
import torch

from tests.torch_utils.distributed_processes import run_processes, torchrun_environments
from torch_utils import distributed
from torch_utils.distributed import DistributedError, World, first_host, launched_world

PRELUDE = """
import torch
from torch_utils.distributed import *
from torch_utils import distributed as d
torch.set_num_threads(1)
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


def run_two(code: str, size: int = 2) -> list[str]:
    """Run the code on several processes; return what each printed."""
    results = run_processes(["-c", PRELUDE + code], torchrun_environments(size))
    for result in results:
        assert result.returncode == 0, result.stderr
    return [result.stdout.strip() for result in results]


def test_world_without_launcher_is_one_process(environment):
    assert launched_world() == World(0, 1, 0)


def test_world_is_read_from_each_launcher(environment):
    environment(SUBMITIT_LOCAL_GLOBALID=1, SUBMITIT_LOCAL_NTASKS=2, SUBMITIT_LOCAL_LOCALID=1)
    assert launched_world() == World(1, 2, 1)
    environment(SLURM_PROCID=5, SLURM_STEP_NUM_TASKS=8, SLURM_LOCALID=1)
    assert launched_world() == World(5, 8, 1)
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


def test_gradients_are_averaged_and_missing_ones_are_zeros():
    code = """
with distributed("cpu") as world:
    a, b, c, e = (torch.nn.Parameter(torch.zeros(3)) for _ in range(4))
    frozen = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
    a.grad = torch.full((3,), 1.0 + 2 * world.rank)
    if world.rank == 1:
        b.grad = torch.full((3,), 4.0)
    e.grad = torch.tensor([1.0, 2.0, 3.0])
    average_gradients([a, frozen, b, c, e])
    print([None if p.grad is None else p.grad.tolist() for p in (a, b, c, e)])
"""
    expected = "[[2.0, 2.0, 2.0], [2.0, 2.0, 2.0], None, [1.0, 2.0, 3.0]]"
    assert run_two(code) == [expected, expected]


def test_many_buckets_give_the_same_mean_as_one():
    code = """
d._BUCKET_BYTES = 40
with distributed("cpu") as world:
    torch.manual_seed(world.rank)
    parameters = [torch.nn.Parameter(torch.zeros(n, 3)) for n in (1, 5, 2, 7)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    sums = [all_reduce_sum(p.grad) for p in parameters]
    average_gradients(parameters)
    print(all(torch.allclose(p.grad, s / 3) for p, s in zip(parameters, sums)))
"""
    assert run_two(code, size=3) == ["True"] * 3


def test_sums_flags_objects_and_weights_reach_all():
    code = """
with distributed("cpu") as world:
    layer = torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(layer.weight, world.rank + 5.0)
    layer.num_batches_tracked += world.rank + 1
    broadcast_weights([layer])
    barrier()
    print(
        all_reduce_sum(torch.tensor([1.0, world.rank])).tolist(),
        any_process(world.rank == 1), any_process(False),
        broadcast_object({"rank": world.rank}),
        layer.weight.tolist(), layer.num_batches_tracked.item(),
        is_main() == (world.rank == 0),
    )
"""
    expected = "[2.0, 1.0] True False {'rank': 0} [5.0, 5.0] 1 True"
    assert run_two(code) == [expected, expected]


def test_failure_on_main_is_raised_on_all_and_only_main_runs():
    code = """
from mate3d.errors import UserError
def fail():
    raise UserError("disk full")
with distributed("cpu") as world:
    run_on_main(lambda: print("ran"))
    try:
        run_on_main(fail)
    except UserError as error:
        print(error)
    print(any_process(world.rank == 1))
"""
    assert run_two(code) == ["ran\ndisk full\nTrue", "disk full\nTrue"]


def test_others_wait_for_main_longer_than_the_timeout_of_the_backend():
    code = """
import time
from datetime import timedelta
d.TIMEOUT = timedelta(seconds=1)
with distributed("cpu") as world:
    run_on_main(lambda: time.sleep(3))
    print(any_process(False))
"""
    assert run_two(code) == ["False", "False"]
