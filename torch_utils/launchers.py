"""What torchrun, Slurm and submitit tell the processes that they start."""

import os
import re
from dataclasses import dataclass

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
# Before Slurm: submitit's local jobs may run inside a Slurm job.
_OTHERS = (
    ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID"),
    # Only srun sets the second; SLURM_NTASKS is there in the batch script, too.
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)


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

    A process of an `sbatch` script that `srun` did not start is alone. After the others, the
    environment holds torchrun's variables too, with a meeting place that all agree on.

    Raises:
        DistributedError: If the variables of a launcher are missing or no numbers.
    """
    environment = os.environ
    names = next((names for names in (_TORCHRUN, *_OTHERS) if names[1] in environment), None)
    if names is None:
        return World()
    try:
        place = World(*(int(environment[name]) for name in names))
    except (KeyError, ValueError):
        raise DistributedError(f"{', '.join(names)}: all must be set, to numbers") from None
    if names != _TORCHRUN:
        environment.update(
            (ours, environment[name]) for ours, name in zip(_TORCHRUN, names, strict=True)
        )
        _name_meeting_place(is_slurm=names == _OTHERS[1])
    return place


def first_host(nodes: str) -> str:
    """Return the first name of Slurm's list of nodes, such as `gpu[003-007,011],login1`."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^\[,]*))?", nodes)
    if match is None:
        raise DistributedError(f"SLURM_STEP_NODELIST='{nodes}' names no node")
    return "".join(part or "" for part in match.groups())


def _name_meeting_place(*, is_slurm: bool) -> None:
    environment = os.environ
    host, job = "127.0.0.1", environment.get("SUBMITIT_LOCAL_JOB_ID", "")
    if is_slurm:
        host = first_host(environment.get("SLURM_STEP_NODELIST", ""))
        job = environment.get("SLURM_JOB_ID", "") + environment.get("SLURM_STEP_ID", "")
    environment.setdefault("MASTER_ADDR", host)
    # Below the ports that systems give to outgoing connections (32768 on).
    number = int("".join(re.findall(r"\d", job)) or 0)
    environment.setdefault("MASTER_PORT", str(12000 + number % 20000))
