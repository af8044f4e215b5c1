"""Run a script: compose its configuration, keep a run folder, turn user errors into one line."""

import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from tqdm import tqdm

from mate3d.atomic import atomic_file
from mate3d.errors import UserError
from mate3d.options import Options, config_to_dict
from scripts._compose import build_options, compose_config
from scripts._flags import read_flags
from scripts._help import help_text
from scripts._multirun import multirun
from scripts._words import CONFIG_FOLDER
from torch_utils.connection import connected
from torch_utils.distributed import DistributedError, broadcast_object, is_main, run_on_main
from torch_utils.ops._extension import KernelsUnavailableError, choice
from torch_utils.pipes import quiet_pipes

_logger = logging.getLogger(__name__)

# First line of a run's config.yaml; the script's name follows.
_RUN_HEADING = "# Resolved options of a run of scripts."

_PACKAGES = ("torch_utils", "mate3d", "training", "editing", "scripts", "__main__")

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
_Main = Callable[[Any], None]
_Guard = Callable[[Any], AbstractContextManager[object]]
_ONE_LINE_ERRORS = (UserError, KernelsUnavailableError, DistributedError)


@quiet_pipes()
def run(
    config_name: str,
    main: _Main,
    argv: Sequence[str] | None = None,
    *,
    guard: _Guard = nullcontext,
    keeps_older: bool = False,
) -> None:
    """Call `main` with the configuration composed from `configs/<config_name>.yaml` and `argv`.

    A UserError ends the process with one line and exit code 2, an interruption with 130; any
    other exception keeps its traceback. The run folder (`paths.run_folder`) gets the resolved
    configuration, the log and the git revision.

    Processes that torchrun, Slurm or submitit launched together use the configuration of the main
    one, which alone writes the run folder. If one fails, all end with its exit code, and only the
    first failure is shown.

    Args:
        config_name: The script's name and that of its primary configuration file.
        main: Receives the options, an instance of the script's dataclass `OPTIONS`.
        argv: Words of the command line; None takes those of the process.
        guard: Entered by the main process around all writes to the run folder; raises if
            this run would damage another one.
        keeps_older: Leave the configuration of an older run in the same folder as it is until
            `main` returns, because its results stay until then, too.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with connected(_report):
            _dispatch(config_name, main, words, guard, keeps_older)
    except (*_ONE_LINE_ERRORS, KeyboardInterrupt) as error:
        sys.exit(_report(error))


def _report(error: BaseException) -> int:
    """Report why the run ended, in one line for a user's mistake; return the exit code."""
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    if isinstance(error, _ONE_LINE_ERRORS):
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return EXIT_USER_ERROR
    traceback.print_exception(error)
    return 1


def _dispatch(
    config_name: str, main: _Main, words: list[str], guard: _Guard, keeps_older: bool
) -> None:
    flags, words = read_flags(words)
    if "--help" in flags:
        print(help_text(config_name, words))
        return
    try:
        choice()
    except ValueError as error:
        raise UserError(str(error)) from None
    if "--multirun" in flags:
        multirun(config_name, words)
        return
    config = compose_config(config_name, words)
    if "--cfg" in flags:
        print(OmegaConf.to_yaml(config, resolve="--resolve" in flags), end="")
        return
    # Processes would get different defaults of `output` from the clock.
    options = broadcast_object(build_options(config_name, config))
    folder = Path(options.paths.run_folder)
    with ExitStack() as stack:
        run_on_main(lambda: check_own_run(folder / "config.yaml", config_name))
        run_on_main(lambda: stack.enter_context(guard(options)))
        is_kept = keeps_older and (folder / "config.yaml").exists()
        if not is_kept:
            run_on_main(lambda: write_run_folder(folder, config_name, options))
        stack.enter_context(_logging_to(folder / "log.txt" if is_main() else None))
        _logger.debug("command: %s", " ".join([config_name, *words]))
        try:
            main(options)
        except Exception:
            _logger.debug("failed", exc_info=True)
            raise
        if is_kept:
            run_on_main(lambda: write_run_folder(folder, config_name, options))


def write_run_folder(folder: Path, config_name: str, options: Options) -> None:
    """Write the resolved configuration and the git revision of a run.

    Raises:
        UserError: If they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "git_revision.txt").write_text(_git_revision() + "\n")
        with atomic_file(folder / "config.yaml") as path:
            text = f"{_RUN_HEADING}{config_name}\n{OmegaConf.to_yaml(config_to_dict(options))}"
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the run folder {folder}: {error.strerror}") from error


def check_own_run(path: Path, config_name: str) -> None:
    """Refuse to overwrite the configuration of a checkpoint or of another script's run.

    Raises:
        UserError: If it belongs to one.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        heading, _, script = file.readline().strip().rpartition(".")
    if f"{heading}." != _RUN_HEADING:
        script = "something else, such as a checkpoint"
    if script != config_name:
        raise UserError(f"{path.parent} holds config.yaml of {script}; choose another output")


def _git_revision() -> str:
    """Return the commit of the code, marked if files differ from it; 'unknown' outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=CONFIG_FOLDER.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


class _Console(logging.StreamHandler):
    """Writes records above progress bars instead of into them."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(self.stream):
            super().emit(record)


@contextmanager
def _logging_to(path: Path | None) -> Iterator[None]:
    """Send log records of our packages to the console (info) and to a file (all, with times).

    Without a file, only warnings reach the console.
    """
    # If the disk is full, records still reach the console, and wait in the file's buffer.
    logging.raiseExceptions = False
    console = _Console(sys.stdout)
    console.setLevel(logging.WARNING if path is None else logging.INFO)
    file = logging.FileHandler(path or os.devnull, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in _PACKAGES]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.handlers[:] = [console, file]
    try:
        yield
    finally:
        for logger in loggers:
            logger.handlers.clear()
        with suppress(OSError):
            file.close()
