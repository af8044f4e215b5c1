"""Several processes that train one model: who they are, and what they tell each other.

Alone (one process, nothing launched), every function here does nothing and costs nothing.
"""

import os
import pickle
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

# How long one process may be late at a collective operation, or at the start.
TIMEOUT = timedelta(minutes=30)
_BUCKET_BYTES = 32 * 2**20
_POLL_SECONDS = 0.1
_MAIN_RANK = 0

T = TypeVar("T")


class DistributedError(Exception):
    """Processes that cannot start together, or lost each other; the message is one line."""


@dataclass(frozen=True)
class World:
    """The place of this process among those of the run.

    Args:
        rank: Number of this process, 0 <= rank < size.
        size: Number of processes on all nodes.
        local_rank: Number of this process on its node.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0


@dataclass
class _Run:
    world: World
    store: dist.Store
    num_calls: int = 0


_run: _Run | None = None


def launched_world() -> World:
    """Read from the environment what torchrun, Slurm's `srun` or submitit started.

    A process of an `sbatch` script that `srun` did not start is alone.

    Raises:
        DistributedError: If the variables of a launcher are incomplete or make no sense.
    """
    names = _launcher_names()
    if names is None:
        return World()
    rank, size, local_rank = (_read_number(name) for name in names)
    if not 0 <= rank < size or local_rank < 0:
        raise DistributedError(
            f"{names[0]}={rank}, {names[1]}={size}, {names[2]}={local_rank}: "
            "a rank must lie in 0 ... number of processes - 1"
        )
    return World(rank, size, local_rank)


def world() -> World:
    """Return this process's place in the run that `distributed` started; else alone."""
    return World() if _run is None else _run.world


def is_main() -> bool:
    """Tell whether this is the process that writes files and talks to the user."""
    return world().rank == _MAIN_RANK


@contextmanager
def distributed(device_type: str) -> Iterator[World]:
    """Connect the launched processes while the context lasts: gloo on CPU, nccl on GPUs.

    With GPUs the process's own one becomes the current device, and tensors on CPU still travel
    by gloo.

    Args:
        device_type: "cpu" or "cuda".

    Raises:
        DistributedError: If the processes do not find each other, or one has no GPU of its own.
    """
    global _run
    place = launched_world()
    if place.size == 1:
        yield place
        return
    if device_type == "cuda":
        torch.cuda.set_device(_gpu_index(place))
    try:
        store = _connect(place)
        dist.init_process_group(
            "gloo" if device_type == "cpu" else "cpu:gloo,cuda:nccl",
            store=dist.PrefixStore("process_group", store),
            rank=place.rank,
            world_size=place.size,
            timeout=TIMEOUT,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise DistributedError(
            f"process {place.rank} of {place.size} does not reach the others: {_first_line(error)}"
        ) from error
    _run = _Run(place, dist.PrefixStore("run", store))
    try:
        yield place
    finally:
        _run = None
        dist.destroy_process_group()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes; they travel in flat buckets.

    A missing gradient counts as zeros; one that is missing everywhere stays so. Parameters that
    do not require gradients are left alone.

    Args:
        parameters: The same ones in the same order on all processes.
    """
    if _run is None:
        return
    buckets = _buckets([parameter for parameter in parameters if parameter.requires_grad])
    with _talking():
        flats = [_flatten_gradients(bucket) for bucket in buckets]
        works = [dist.all_reduce(flat, async_op=True) for flat in flats]
        for work, flat, bucket in zip(works, flats, buckets, strict=True):
            work.wait()
            _scatter_gradients(flat, bucket, _run.world.size)


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum of the processes' tensors, which have one shape, type and device type."""
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    if _run is not None:
        with _talking():
            dist.all_reduce(total)
    return total


def any_process(flag: bool) -> bool:
    """Tell whether the flag is set on any process."""
    if _run is None:
        return flag
    return bool(all_reduce_sum(torch.tensor(int(flag))) > 0)


def barrier() -> None:
    """Wait until all processes are here."""
    any_process(False)


def broadcast_object(value: T) -> T:
    """Return the main process's value on all processes; it must be picklable."""
    if _run is None:
        return value
    values = [value]
    with _talking():
        dist.broadcast_object_list(values, src=_MAIN_RANK, device=torch.device("cpu"))
    return values[0]


@torch.no_grad()
def broadcast_weights(modules: Iterable[nn.Module]) -> None:
    """Give all processes the main one's parameters and buffers, in place."""
    if _run is None:
        return
    with _talking():
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                sent = tensor.detach().contiguous()
                dist.broadcast(sent, src=_MAIN_RANK)
                if sent.data_ptr() != tensor.data_ptr():
                    tensor.copy_(sent)


def run_on_main(function: Callable[[], object]) -> None:
    """Run a function on the main process while the others wait, however long it takes.

    The function must not use this module: the others would not answer.

    Raises:
        Exception: Whatever the function raised, on all processes.
    """
    if _run is None:
        function()
        return
    key = f"main/{_run.num_calls}"
    _run.num_calls += 1
    if is_main():
        failure = None
        try:
            function()
        except Exception as error:
            failure = error
        with _talking():
            _run.store.set(key, _pack_error(failure))
    else:
        with _talking():
            while not _run.store.check([key]):
                time.sleep(_POLL_SECONDS)
            failure = pickle.loads(_run.store.get(key))
    if failure is not None:
        raise failure


def _launcher_names() -> tuple[str, str, str] | None:
    """Return the variables of (rank, number of processes, local rank), None when alone."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return "RANK", "WORLD_SIZE", "LOCAL_RANK"
    # Only srun sets the first; the others of Slurm's are there in the batch script, too.
    if "SLURM_STEP_NUM_TASKS" in os.environ:
        return "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"
    if "SUBMITIT_LOCAL_NTASKS" in os.environ:
        return "SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID"
    return None


def _read_number(name: str) -> int:
    text = os.environ.get(name, "")
    try:
        return int(text)
    except ValueError:
        raise DistributedError(f"environment variable {name}='{text}' must be a number") from None


def _connect(place: World) -> dist.Store:
    if "RANK" in os.environ:
        # torchrun names the meeting place, and has opened it already.
        store, _, _ = next(rendezvous("env://", place.rank, place.size, timeout=TIMEOUT))
        return store
    host, port = _meeting_place()
    return dist.TCPStore(
        host, port, place.size, is_master=place.rank == _MAIN_RANK, timeout=TIMEOUT
    )


def _meeting_place() -> tuple[str, int]:
    """Return host and port that all processes of a Slurm step or submitit job agree on."""
    environment = os.environ
    if "SLURM_STEP_NUM_TASKS" in environment:
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "")
        job = f"{environment.get('SLURM_JOB_ID', '')}.{environment.get('SLURM_STEP_ID', '')}"
        host = first_host(nodes)
    else:
        host, job = "127.0.0.1", environment.get("SUBMITIT_LOCAL_JOB_ID", "0")
    number = int("".join(re.findall(r"\d", job)) or 0)
    # Below the ports that systems give to outgoing connections (32768 on).
    return environment.get("MASTER_ADDR", host), int(
        environment.get("MASTER_PORT", 12000 + number % 20000)
    )


def first_host(nodes: str) -> str:
    """Return the first name of Slurm's list of nodes, such as `gpu[003-007,011],login1`."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^\[,]*))?", nodes)
    if match is None:
        raise DistributedError(f"SLURM_STEP_NODELIST='{nodes}' names no node")
    return "".join(part or "" for part in match.groups())


def _gpu_index(place: World) -> int:
    count = torch.cuda.device_count()
    # Slurm may show each process its own GPU alone.
    if count == 1 and "RANK" not in os.environ:
        return 0
    if place.local_rank >= count:
        raise DistributedError(
            f"process {place.local_rank} of this node has no GPU of its own, there are {count}; "
            "start at most one process a GPU"
        )
    return place.local_rank


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise DistributedError(
            f"lost contact with other processes: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def _pack_error(error: Exception | None) -> bytes:
    try:
        packed = pickle.dumps(error)
        pickle.loads(packed)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return packed


def _buckets(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Split a list into pieces of one type and device and of about `_BUCKET_BYTES`."""
    open_buckets: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    sizes: dict[tuple[torch.dtype, torch.device], int] = {}
    buckets = []
    for parameter in parameters:
        kind = parameter.dtype, parameter.device
        if kind not in open_buckets or sizes[kind] >= _BUCKET_BYTES:
            open_buckets[kind], sizes[kind] = [], 0
            buckets.append(open_buckets[kind])
        open_buckets[kind].append(parameter)
        sizes[kind] += parameter.numel() * parameter.element_size()
    return buckets


def _flatten_gradients(bucket: list[nn.Parameter]) -> Tensor:
    """Return [all gradients one after the other, one flag a parameter: has a gradient]."""
    parts = [
        torch.zeros_like(parameter).flatten()
        if parameter.grad is None
        else parameter.grad.flatten()
        for parameter in bucket
    ]
    flags = [float(parameter.grad is not None) for parameter in bucket]
    return torch.cat([*parts, torch.tensor(flags).to(parts[0])])


def _scatter_gradients(flat: Tensor, bucket: list[nn.Parameter], size: int) -> None:
    pieces = flat.split([*(parameter.numel() for parameter in bucket), len(bucket)])
    *sums, counts = pieces
    is_anywhere: list[float] | None = None
    for index, (parameter, total) in enumerate(zip(bucket, sums, strict=True)):
        if parameter.grad is None:
            # Read once, and only where one is missing: on a GPU it means waiting.
            is_anywhere = counts.tolist() if is_anywhere is None else is_anywhere
            if is_anywhere[index] == 0:
                continue
            parameter.grad = torch.empty_like(parameter)
        parameter.grad.copy_((total / size).view_as(parameter))
