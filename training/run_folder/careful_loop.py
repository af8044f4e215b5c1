"""The loop of every long run: one writer per folder, a clean stop, and resuming."""

import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mate3d.atomic import file_lock, remove_leftovers
from mate3d.errors import UserError
from torch_utils.distributed import world
from training.run_folder.safety import CHECKPOINTS_FOLDER
from training.run_folder.state_file import STATE_FILE, has_state

_LOCK_FILE = ".training.lock"
# Data workers of a killed run hold its lock until they notice, after about five seconds.
_PATIENCE_S = 12.0

_logger = logging.getLogger(__name__)


@contextmanager
def only_writer(
    run_folder: Path, resume: str = "auto", *, patience_s: float = _PATIENCE_S
) -> Iterator[None]:
    """Lock a run folder during the block; first remove leftovers of killed runs.

    Args:
        run_folder: Created if missing.
        resume: "true" needs a state to resume from, "false" refuses one, "auto" takes either.
        patience_s: How long to wait for another run that is about to end.

    Raises:
        UserError: If another process trains there, `resume` does not fit, or the folder cannot be
            written.
    """
    if resume == "true" and not has_state(run_folder):
        raise UserError(f"nothing to resume: {run_folder / STATE_FILE} not found")
    refusal = f"another process is training in {run_folder}; wait for it or choose another output"
    with file_lock(run_folder / _LOCK_FILE, refusal, patience_s=patience_s):
        if resume == "false" and has_state(run_folder):
            raise UserError(
                f"{run_folder} holds a training run; set resume=true or choose another output"
            )
        for folder in (run_folder, run_folder / CHECKPOINTS_FOLDER):
            remove_leftovers(folder)
        yield


def run_carefully(
    take_step: Callable[[], bool],
    save: Callable[[], None],
    is_finished: Callable[[], bool],
    should_stop: Callable[[], bool],
) -> bool:
    """Take steps until the run is finished or asked to stop, then save it.

    Args:
        take_step: Takes one step, saves if a snapshot is due, and returns whether it saved.
        should_stop: Returns whether to stop before the next step; the same on all processes.

    Returns:
        Whether the run is finished.
    """
    is_saved = True
    while not is_finished() and not should_stop():
        is_saved = take_step()
    if not is_saved:
        save()
    return is_finished()


def report_stop(position: str, command: str) -> None:
    """Log where a run stopped, such as "12 images", and how to resume it; see `resume_command`."""
    launched = ", launched as before" if world().size > 1 else ""
    _logger.info("stopped at %s; to resume%s:", position, launched)
    _logger.info("  %s", resume_command(command) or "resume=true")


def resume_command(command: str) -> str:
    """Return the command that resumes the run which a command starts; "" stays ""."""
    words = [word for word in shlex.split(command) if not word.startswith("resume=")]
    return shlex.join([*words, "resume=true"]) if words else ""
