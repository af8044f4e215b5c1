"""Start one job for each combination of values, by default here and one after the other.

`--multirun hydra/launcher=slurm train.seed=0,1` submits two jobs through Hydra's launcher plugin
for submitit. A job is an ordinary run of the script with one value each, in a folder of its own.
"""

import importlib
import importlib.util
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mate3d.errors import UserError
from scripts._compose import (
    CONFIG_FOLDER,
    compose_config,
    normalize_words,
    resolve_config,
    split_word,
)

_LAUNCHERS = ("basic", *sorted(p.stem for p in (CONFIG_FOLDER / "hydra/launcher").glob("*.yaml")))
_HYDRA_PREFIXES = ("hydra.", "hydra/")


def multirun(config_name: str, words: Sequence[str]) -> None:
    """Start all jobs and wait until they have ended.

    Args:
        config_name: Name of the script.
        words: `name=value`; values separated by commas make one job each. Words that begin with
            `hydra/launcher` or `hydra.launcher.` say where and how jobs run.

    Raises:
        UserError: If an option is unknown, the launcher is not there, or a job failed.
    """
    own = [word for word in words if not word.startswith(_HYDRA_PREFIXES)]
    hydra_words = [word for word in words if word.startswith(_HYDRA_PREFIXES)]
    _check_launcher(config_name, hydra_words)
    folder, own = _take_output(config_name, own)
    swept = {word: _alternatives(word) for word in own}
    jobs = list(itertools.product(*swept.values()))
    for job in jobs:
        resolve_config(compose_config(config_name, [*job, *_job_words(config_name, folder)]))
    fixed_keys = [split_word(word)[0] for word in own if len(swept[word]) == 1]
    settings = [
        f"hydra.job.name={config_name}",
        f"hydra.sweep.dir='{folder}'",
        # Folders are named after what differs between jobs.
        "hydra.sweep.subdir=${hydra.job.override_dirname}",
        f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed_keys)}]",
        "hydra.output_subdir=null",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
    ]
    own = [
        f"{split_word(word)[0]}={','.join(split_word(each)[1] for each in swept[word])}"
        for word in own
    ]
    print(f"{len(jobs)} job{'s' if len(jobs) > 1 else ''} in {folder}", flush=True)
    _launch(config_name, [*settings, *hydra_words, *own])


def run_job(_: DictConfig) -> None:
    """Run the script as a job; Hydra calls this with the configuration, which it makes again."""
    job = HydraConfig.get()
    # Hydra composes once at a time; the script composes anew.
    GlobalHydra.instance().clear()
    name = job.job.config_name
    words = [*job.overrides.task, *_job_words(name, Path(job.runtime.output_dir))]
    with _saving_before_requeue():
        importlib.import_module(f"scripts.{name}").main(words)


def _job_words(config_name: str, folder: Path) -> list[str]:
    """Return what a job gets beside the user's words: its folder, and to go on there."""
    words = [f"output='{folder}'"]
    if "resume" in compose_config(config_name):
        words.append("resume=auto")
    return words


def _check_launcher(config_name: str, hydra_words: Sequence[str]) -> None:
    launcher = "basic"
    for word in hydra_words:
        key, value = split_word(word)
        if key == "hydra/launcher":
            launcher = value
        elif not key.startswith("hydra.launcher."):
            raise UserError(
                f"unknown option '{key}'; of Hydra's own, use hydra/launcher=... or "
                "hydra.launcher.<name>=..."
            )
    if launcher not in _LAUNCHERS:
        raise UserError(
            f"unknown choice hydra/launcher={launcher}; use one of: {', '.join(_LAUNCHERS)}"
        )
    if launcher != "basic" and importlib.util.find_spec("submitit") is None:
        raise UserError(
            f"hydra/launcher={launcher} needs hydra-submitit-launcher: pip install -e .[slurm]"
        )
    if launcher == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError(
            "hydra/launcher=slurm, but sbatch and srun are not on this machine; use a login node "
            "of a Slurm cluster, or hydra/launcher=local"
        )
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
            config = compose(config_name, list(hydra_words), return_hydra_config=True)
            OmegaConf.to_container(config.hydra.launcher, resolve=False)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"hydra.launcher: {str(error).splitlines()[0]}") from error


def _take_output(config_name: str, words: Sequence[str]) -> tuple[Path, list[str]]:
    """Return the folder of all jobs and the words without it."""
    rest = [word for word in words if split_word(word)[0] not in ("output", "resume")]
    given = [word for word in words if split_word(word)[0] == "output"]
    config = compose_config(config_name, given)
    return Path(config.output), normalize_words(config_name, rest)


def _alternatives(word: str) -> list[str]:
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return [word]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _launch(config_name: str, words: Sequence[str]) -> None:
    main = hydra.main(version_base=None, config_path=str(CONFIG_FOLDER), config_name=config_name)
    path = os.pathsep.join(filter(None, [str(CONFIG_FOLDER.parent), os.environ.get("PYTHONPATH")]))
    previous_words, previous_environment = sys.argv, dict(os.environ)
    sys.argv = [config_name, "--multirun", *words]
    # Hydra raises instead of printing; jobs may have no project on their path.
    os.environ.update(HYDRA_FULL_ERROR="1", PYTHONPATH=path)
    try:
        main(run_job)()
    except Exception as error:
        if type(error).__module__.split(".")[0] != "submitit":
            raise
        lines = [line for line in str(error).splitlines() if line.strip()]
        told = [line for line in lines if "error: " in line]
        raise UserError(f"a job failed: {(told or lines)[-1]}") from error
    finally:
        sys.argv = previous_words
        os.environ.clear()
        os.environ.update(previous_environment)


@contextmanager
def _saving_before_requeue() -> Iterator[None]:
    """Let a preempted job of submitit stop as after SIGTERM, that is save, and then queue again.

    submitit's own answer to its signal is to queue again at once. That is also what happens here
    as long as nothing runs that waits for SIGTERM.
    """
    number = signal.SIGUSR2
    requeue, idle = signal.getsignal(number), signal.getsignal(signal.SIGTERM)
    if not callable(requeue):
        yield
        return
    received: list[int] = []

    def stop_first(number: int, frame: object) -> None:
        if received:
            return
        if signal.getsignal(signal.SIGTERM) == idle:
            requeue(number, frame)
            return
        received.append(number)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(number, stop_first)
    try:
        yield
    finally:
        signal.signal(number, requeue)
    if received:
        requeue(number, None)
