"""Multi-process training: ranks, process groups and collective operations.

With a single process, every function here is a no-op without overhead.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torch_utils.connection import connected, current, talking
from torch_utils.launchers import DistributedError, World

# How long collective operations wait for the slowest process.
TIMEOUT = timedelta(minutes=30)
_MAIN_RANK = 0

T = TypeVar("T")


def world() -> World:
    """Return this process's rank in the connected run; a world of size 1 without one."""
    connection = current()
    return World() if connection is None else connection.place


def is_main() -> bool:
    """Return whether this is the process that writes files and logs."""
    return world().rank == _MAIN_RANK


@contextmanager
def distributed(device_type: str) -> Iterator[World]:
    """Form a process group of the launched processes within the context: gloo or nccl.

    On GPUs, each process's own GPU becomes the current device; CPU tensors still use gloo.

    Args:
        device_type: "cpu" or "cuda".

    Raises:
        DistributedError: If the processes cannot connect, or one has no GPU.
    """
    with connected() as place:
        connection = current()
        if connection is None:
            yield place
            return
        if device_type == "cuda":
            torch.cuda.set_device(_gpu_index(place))
            # accelerate chooses the GPU by this variable.
            os.environ["LOCAL_RANK"] = str(torch.cuda.current_device())
        with talking():
            dist.init_process_group(
                "gloo" if device_type == "cpu" else "cpu:gloo,cuda:nccl",
                store=dist.PrefixStore("process_group", connection.store),
                rank=place.rank,
                world_size=place.size,
                timeout=TIMEOUT,
            )
        yield place
        # Not after an exception: nccl would wait here for processes that `connected` ends.
        dist.destroy_process_group()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient with its mean over the processes, in a single collective operation.

    A missing gradient counts as zero; one missing on all processes stays missing. Parameters that
    do not require gradients are ignored.

    Args:
        parameters: Must be the same, in the same order, on all processes, and on one device.
    """
    if current() is None:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    flags = torch.tensor([float(parameter.grad is not None) for parameter in trained])
    flags = flags.to(gradients[0].device, non_blocking=True)
    flat = torch.cat([*(g.flatten() for g in gradients), flags])
    with talking():
        dist.all_reduce(flat)
    sizes = [*(parameter.numel() for parameter in trained), len(trained)]
    *means, shares = flat.div_(world().size).split(sizes)
    # Read together and only if a gradient is missing, because each read waits for the GPU.
    is_complete = all(parameter.grad is not None for parameter in trained)
    are_missing = [False] * len(trained) if is_complete else (shares == 0).tolist()
    for parameter, mean, is_missing in zip(trained, means, are_missing, strict=True):
        if is_missing:
            continue
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)
        parameter.grad.copy_(mean.view_as(parameter))


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over processes; shape, dtype and device type must match."""
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    if current() is not None:
        with talking():
            dist.all_reduce(total)
    return total


def any_process(flag: bool) -> bool:
    """Return whether the flag is set on any process."""
    if current() is None:
        return flag
    return bool(all_reduce_sum(torch.tensor(int(flag))) > 0)


def barrier() -> None:
    """Wait for all processes."""
    any_process(False)


def broadcast_object(value: T) -> T:
    """Return the main process's value on all processes; it must be picklable.

    Values are limited to 8 MiB; use `all_reduce_sum` for tensors. Like `run_on_main`, this works
    inside `connected`, without `distributed`.
    """
    connection = current()
    return value if connection is None else connection.share(lambda: value)


@torch.no_grad()
def broadcast_weights(modules: Iterable[nn.Module]) -> None:
    """Copy the main process's parameters and buffers to all processes, in place."""
    if current() is None:
        return
    with talking():
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                sent = tensor.detach().contiguous()
                dist.broadcast(sent, src=_MAIN_RANK)
                tensor.copy_(sent)


def find_difference(modules: Mapping[str, nn.Module]) -> str | None:
    """Return a module whose float32 weights differ from the main process's, and on which process.

    Only a process that differs gets an answer. Sums of weights as integers are compared, which are
    the same in any order.
    """
    if current() is None:
        return None
    with torch.no_grad():
        sums = {
            name: int(sum(weight.view(torch.int32).sum() for weight in module.parameters()))
            for name, module in modules.items()
        }
    found = [name for name, value in broadcast_object(sums).items() if sums[name] != value]
    return f"{found[0]} of process {world().rank}" if found else None


def run_on_main(function: Callable[[], object]) -> None:
    """Run a function on the main process while the others wait, without a timeout.

    The function must not use collective operations: the others would not take part. If it raises,
    all processes end.
    """
    connection = current()
    if connection is None:
        function()
    else:

        def alone() -> None:
            function()

        connection.share(alone)


def _gpu_index(place: World) -> int:
    count = torch.cuda.device_count()
    # Slurm may make only its own GPU visible to each process.
    index = 0 if count == 1 and not dist.is_torchelastic_launched() else place.local_rank
    if index >= count:
        raise DistributedError(
            f"no GPU for process {index} of this node, which has {count}; "
            "start at most one process per GPU"
        )
    return index
