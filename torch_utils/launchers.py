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
        DistributedError: If the variables of a launcher are missing or no numbers.
    """
    names = _launcher_names()
    if names is None:
        return World()
    try:
        return World(*(int(os.environ[name]) for name in names))
    except (KeyError, ValueError):
        raise DistributedError(f"{', '.join(names)}: all must be set, to numbers") from None


def connect_store(place: World) -> dist.Store:
    """Return the key-value store that the launched processes share; the first one holds it.

    Raises:
        DistributedError: If the processes do not find each other.
    """
    try:
        # torchrun names the meeting place, and has opened it already.
        if _launcher_names() != _TORCHRUN:
            _name_meeting_place()
        store, _, _ = next(rendezvous("env://", place.rank, place.size, timeout=_START_TIMEOUT))
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise DistributedError(
            f"process {place.rank} of {place.size} does not reach the others: {reason}"
        ) from error
    return store


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
    return next((names for names in (_SUBMITIT, _SLURM) if names[1] in os.environ), None)


def _name_meeting_place() -> None:
    """Let all processes of a Slurm step or submitit job agree on a host and a port."""
    environment = os.environ
    host, job = "127.0.0.1", environment.get("SUBMITIT_LOCAL_JOB_ID", "")
    if _launcher_names() == _SLURM:
        job = f"{environment.get('SLURM_JOB_ID', '')}.{environment.get('SLURM_STEP_ID', '')}"
        host = first_host(environment.get("SLURM_STEP_NODELIST", ""))
    number = int("".join(re.findall(r"\d", job)) or 0)
    environment.setdefault("MASTER_ADDR", host)
    # Below the ports that systems give to outgoing connections (32768 on).
    environment.setdefault("MASTER_PORT", str(12000 + number % 20000))
