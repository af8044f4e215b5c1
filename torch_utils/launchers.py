"""What torchrun, Slurm and submitit tell the processes that they start."""

import os
import re
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

# How long the first process waits for the last one at the start.
_START_TIMEOUT = timedelta(minutes=15)

# Variables of (rank, number of processes, local rank).
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SUBMITIT = ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID")
# Only srun sets the second; SLURM_NTASKS is there in the batch script, too.
_SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")


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


def connect_store(place: World) -> dist.Store:
    """Return the key-value store that the launched processes share; the first one holds it.

    Raises:
        DistributedError: If the processes do not find each other.
    """
    try:
        if _launcher_names() == _TORCHRUN:
            # torchrun names the meeting place, and has opened it already.
            store, _, _ = next(rendezvous("env://", place.rank, place.size, timeout=_START_TIMEOUT))
            return store
        host, port = _meeting_place()
        return dist.TCPStore(
            host, port, place.size, is_master=place.rank == 0, timeout=_START_TIMEOUT
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise DistributedError(
            f"process {place.rank} of {place.size} does not reach the others: {reason}"
        ) from error


def shows_own_gpu_only() -> bool:
    """Tell whether the launcher may have left each process one GPU, its own."""
    return _launcher_names() != _TORCHRUN


def first_host(nodes: str) -> str:
    """Return the first name of Slurm's list of nodes, such as `gpu[003-007,011],login1`."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^\[,]*))?", nodes)
    if match is None:
        raise DistributedError(f"SLURM_STEP_NODELIST='{nodes}' names no node")
    return "".join(part or "" for part in match.groups())


def _launcher_names() -> tuple[str, str, str] | None:
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _TORCHRUN
    # Before Slurm: submitit's local jobs may run inside a Slurm job.
    for names in (_SUBMITIT, _SLURM):
        if names[1] in os.environ:
            return names
    return None


def _read_number(name: str) -> int:
    text = os.environ.get(name, "")
    try:
        return int(text)
    except ValueError:
        raise DistributedError(f"environment variable {name}='{text}' must be a number") from None


def _meeting_place() -> tuple[str, int]:
    """Return host and port that all processes of a Slurm step or submitit job agree on."""
    environment = os.environ
    if _launcher_names() == _SLURM:
        job = f"{environment.get('SLURM_JOB_ID', '')}.{environment.get('SLURM_STEP_ID', '')}"
        host = first_host(environment.get("SLURM_STEP_NODELIST", ""))
    else:
        host, job = "127.0.0.1", environment.get("SUBMITIT_LOCAL_JOB_ID", "")
    number = int("".join(re.findall(r"\d", job)) or 0)
    # Below the ports that systems give to outgoing connections (32768 on).
    port = environment.get("MASTER_PORT", str(12000 + number % 20000))
    return environment.get("MASTER_ADDR", host), int(port)
