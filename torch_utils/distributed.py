"""Several processes that train one model: who they are, and what they tell each other.

Alone (one process, nothing launched), every function here does nothing and costs nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torch_utils.connection import connected, current, talking
from torch_utils.launchers import DistributedError, World

# How long one process may be late at a collective operation.
TIMEOUT = timedelta(minutes=30)
_MAIN_RANK = 0

T = TypeVar("T")


def world() -> World:
    """Return this process's place in the connected run; without one, alone."""
    connection = current()
    return World() if connection is None else connection.place


def is_main() -> bool:
    """Tell whether this is the process that writes files and talks to the user."""
    return world().rank == _MAIN_RANK


@contextmanager
def distributed(device_type: str) -> Iterator[World]:
    """Make the launched processes a group while the context lasts: gloo on CPU, nccl on GPUs.

    With GPUs the process's own one becomes the current device, and tensors on CPU still travel
    by gloo.

    Args:
        device_type: "cpu" or "cuda".

    Raises:
        DistributedError: If the processes do not find each other, or one has no GPU of its own.
    """
    with connected() as place:
        connection = current()
        if connection is None:
            yield place
            return
        if device_type == "cuda":
            torch.cuda.set_device(_gpu_index(place))
        with talking():
            dist.init_process_group(
                "gloo" if device_type == "cpu" else "cpu:gloo,cuda:nccl",
                store=dist.PrefixStore("process_group", connection.store),
                rank=place.rank,
                world_size=place.size,
                timeout=TIMEOUT,
            )
        yield place
        # Not after an exception: `connected` ends the others, for which nccl would wait here.
        dist.destroy_process_group()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes; all travel together.

    A missing gradient counts as zeros; one that is missing everywhere stays so. Parameters that
    do not require gradients are left alone.

    Args:
        parameters: The same ones in the same order on all processes, on one device.
    """
    if current() is None:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    flags = torch.tensor([float(parameter.grad is not None) for parameter in trained])
    flat = torch.cat([*(g.flatten() for g in gradients), flags.to(gradients[0].device)])
    with talking():
        dist.all_reduce(flat)
    sizes = [*(parameter.numel() for parameter in trained), len(trained)]
    *means, shares = flat.div_(world().size).split(sizes)
    for parameter, mean, share in zip(trained, means, shares, strict=True):
        if parameter.grad is None:
            # Read only where a gradient is missing: on a GPU it means waiting.
            if share == 0:
                continue
            parameter.grad = torch.empty_like(parameter)
        parameter.grad.copy_(mean.view_as(parameter))


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum of the processes' tensors, which have one shape, type and device type."""
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    if current() is not None:
        with talking():
            dist.all_reduce(total)
    return total


def any_process(flag: bool) -> bool:
    """Tell whether the flag is set on any process."""
    if current() is None:
        return flag
    return bool(all_reduce_sum(torch.tensor(int(flag))) > 0)


def barrier() -> None:
    """Wait until all processes are here."""
    any_process(False)


def broadcast_object(value: T) -> T:
    """Return the main process's value on all processes; it must be picklable and small.

    A message of the store takes 8 MiB at most; tensors travel by `all_reduce_sum`.
    Like `run_on_main`, this needs the processes only connected, not `distributed`.
    """
    connection = current()
    return value if connection is None else connection.share(lambda: value)


@torch.no_grad()
def broadcast_weights(modules: Iterable[nn.Module]) -> None:
    """Give all processes the main one's parameters and buffers, in place."""
    if current() is None:
        return
    with talking():
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                sent = tensor.detach().contiguous()
                dist.broadcast(sent, src=_MAIN_RANK)
                tensor.copy_(sent)


def run_on_main(function: Callable[[], object]) -> None:
    """Run a function on the main process while the others wait, however long it takes.

    The function must not use this module: the others would not answer. If it raises, all end.
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
    # Slurm may show each process its own GPU alone.
    index = 0 if count == 1 and not dist.is_torchelastic_launched() else place.local_rank
    if index >= count:
        raise DistributedError(
            f"process {index} of this node has no GPU of its own, there are {count}; "
            "start at most one process a GPU"
        )
    return index
