"""Start one job for each combination of values, by default here, one after the other.

`--multirun hydra/launcher=slurm train.seed=0,1` submits two jobs through Hydra's launcher plugin
for submitit. A job is an ordinary run of the script with one value each, in its own folder.
"""

import importlib
import importlib.util
import itertools
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from mate3d.errors import UserError
from scripts._compose import compose_config, composing, read_options
from scripts._words import hydra_words
from torch_utils.interruption import was_preempted


def multirun(config_name: str, words: Sequence[str]) -> None:
    """Start all jobs and wait until they have ended.

    Args:
        words: `name=value`; values separated by commas make one job each. Words that begin with
            `hydra/launcher` or `hydra.launcher.` set where and how jobs run.

    Raises:
        UserError: If an option is unknown, the launcher is not there, or a job failed.
    """
    launching = [word for word in words if word.startswith(("hydra.", "hydra/"))]
    launcher = next((w[15:] for w in launching if w.startswith("hydra/launcher=")), "basic")
    if launcher in ("local", "slurm") and importlib.util.find_spec("submitit") is None:
        raise UserError(f"hydra/launcher={launcher} needs pip install -e .[slurm]")
    output = [word for word in words if word.startswith("output=")]
    folder = Path(compose_config(config_name, output).output)
    others = ("hydra.", "hydra/", "output=", "resume=")
    own = [word for word in words if not word.startswith(others)]
    own = hydra_words(config_name, own, with_sweeps=True)
    overrides = OverridesParser.create().parse_overrides(own)
    jobs = list(itertools.product(*map(_alternatives, overrides)))
    for job in jobs:
        read_options(config_name, [*job, *_job_words(config_name, folder)])
    fixed = [each.key_or_group for each in overrides if not each.is_sweep_override()]
    settings = [
        f"hydra.sweep.dir='{folder}'",
        # Folders are named after what differs between jobs.
        "hydra.sweep.subdir=${hydra.job.override_dirname}",
        f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]",
        "hydra.output_subdir=null",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
    ]
    print(f"{len(jobs)} job{'s' if len(jobs) > 1 else ''} in {folder}", flush=True)
    try:
        with composing(config_name, with_types=False):
            GlobalHydra.instance().hydra.multirun(
                config_name, run_job, [*launching, *own, *settings], with_log_configuration=False
            )
    except Exception as error:
        if launcher == "basic" or isinstance(error, UserError):
            raise
        lines = [line for line in str(error).splitlines() if line.strip()]
        told = [line for line in lines if "error: " in line]
        raise UserError(f"hydra/launcher={launcher}: {(told or lines)[-1]}") from error


def run_job(_: DictConfig) -> None:
    """Run the script as a job; Hydra calls this with a configuration, which it composes again."""
    job = HydraConfig.get()
    # Hydra allows one composition at a time, and the script does its own.
    GlobalHydra.instance().clear()
    name = job.job.config_name
    words = [*job.overrides.task, *_job_words(name, Path(job.runtime.output_dir))]
    importlib.import_module(f"scripts.{name}").main(words)
    queue_again()


def queue_again() -> None:
    """If work stopped at submitit's signal, let submitit handle it and requeue the job.

    submitit alone would do so immediately, before the work is saved.
    """
    if was_preempted():
        os.kill(os.getpid(), signal.SIGUSR2)


def _alternatives(override: Override) -> list[str]:
    """Return the words of a sweep, or the one word."""
    if not override.is_sweep_override():
        return [override.input_line]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _job_words(config_name: str, folder: Path) -> list[str]:
    """Return the options added to the user's words: the job's folder, and resuming there."""
    resume = ["resume=auto"] if "resume" in compose_config(config_name) else []
    return [f"output={folder}", *resume]
