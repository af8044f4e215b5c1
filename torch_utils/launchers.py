"""Environment variables that torchrun, Slurm and submitit set for launched processes."""

import os
import re
from dataclasses import dataclass

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
# Before Slurm: submitit's local jobs may run inside a Slurm job.
_OTHERS = (
    ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID"),
    # Only srun sets the second one; SLURM_NTASKS is also set in batch scripts.
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)


class DistributedError(Exception):
    """Processes could not connect, or lost their connection; the message is one line."""


@dataclass(frozen=True)
class World:
    """Rank of this process and size of the run.

    Args:
        rank: Index of this process, 0 <= rank < size.
        size: Number of processes on all nodes.
        local_rank: Index of this process on its node.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def launched_world() -> World:
    """Read rank and world size from the environment of torchrun, Slurm's `srun` or submitit.

    A process of an `sbatch` script not started by `srun` is a single process. For Slurm and
    submitit, torchrun's variables are also set, including a common rendezvous address.

    Raises:
        DistributedError: If variables of a launcher are missing or not integers.
    """
    names = next((names for names in (_TORCHRUN, *_OTHERS) if names[1] in os.environ), None)
    if names is None:
        return World()
    try:
        place = World(*(int(os.environ[name]) for name in names))
    except (KeyError, ValueError):
        raise DistributedError(f"{', '.join(names)} must all be set to integers") from None
    if names != _TORCHRUN:
        for ours, name in zip(_TORCHRUN, names, strict=True):
            os.environ[ours] = os.environ[name]
        _name_meeting_place(is_slurm=names == _OTHERS[1])
    return place


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list such as `gpu[003-007,011],login1`."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^\[,]*))?", nodes)
    if match is None:
        raise DistributedError(f"SLURM_STEP_NODELIST='{nodes}' contains no node name")
    return "".join(part or "" for part in match.groups())


def _name_meeting_place(*, is_slurm: bool) -> None:
    host, job = "127.0.0.1", os.environ.get("SUBMITIT_LOCAL_JOB_ID", "")
    if is_slurm:
        host = first_host(os.environ.get("SLURM_STEP_NODELIST", ""))
        job = os.environ.get("SLURM_JOB_ID", "") + os.environ.get("SLURM_STEP_ID", "")
    os.environ.setdefault("MASTER_ADDR", host)
    # Below the range that systems use for outgoing connections (from 32768).
    number = int("".join(re.findall(r"\d", job)) or 0)
    os.environ.setdefault("MASTER_PORT", str(12000 + number % 20000))
