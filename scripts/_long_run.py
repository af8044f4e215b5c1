"""Start a training script that can be stopped and resumed."""

import logging
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mate3d.atomic import atomic_file
from mate3d.errors import UserError
from mate3d.options import Options, config_to_dict
from scripts._compose import changed_values, flatten
from scripts._entry import run
from torch_utils.distributed import broadcast_object
from training.run_folder.careful_loop import only_writer
from training.run_folder.events import log_event
from training.run_folder.json_lines import STATS_FILE, read_lines
from training.run_folder.state_file import has_state

_WEIGHTS = "the saved weights were trained for the old value"
_STAGES = "a finished stage would begin again, or one end early"
_ORDER = "random numbers and the order of the data depend on it"
# Options and groups that a resumed run cannot change, and why.
_FIXED = {
    "init_from": "only a new run reads it",
    **dict.fromkeys(("model", "rendering", "network", "prior.base", "prior.resolution"), _WEIGHTS),
    **dict.fromkeys(
        ("train.sphere_init_steps", "train.overfit_steps", "train.warm_start"), _STAGES
    ),
    **dict.fromkeys(("warm_start.num_field_steps", "warm_start.num_image_steps"), _STAGES),
    **dict.fromkeys(("seed", "train.seed", "train.streaming", "with_flips"), _ORDER),
}
_FIXED_IN_STREAMS = dict.fromkeys(("train.batch_size", "train.num_workers"), _ORDER)
# Where and how a run starts, not what it does.
_UNCOMPARED = ("output", "resume", "paths.")

_logger = logging.getLogger(__name__)


def run_long(
    script: str,
    train: Callable[[Any, str, bool], None],
    argv: Sequence[str] | None = None,
) -> None:
    """Run a training script, as the only one in its run folder; see `scripts._entry.run`.

    `train` receives the configuration, the command that starts this run, and whether to resume.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # Known to the main process before it has a log.
    changes = ""

    def start(config: Any) -> None:
        if changes:
            _logger.warning("resuming with other options: %s", changes)
        # `output` may depend on the time.
        own_words = [word for word in words if not word.startswith(("output=", "resume="))]
        own_words.append(f"output={config.output}")
        command = shlex.join(["python", "-m", f"scripts.{script}", *own_words])
        # `only_writer` has refused a state that must not be resumed.
        train(config, command, broadcast_object(has_state(Path(config.output))))

    @contextmanager
    def guard(config: Any) -> Iterator[None]:
        nonlocal changes
        with only_writer(Path(config.output), config.resume):
            path = Path(config.paths.run_folder, "config.yaml")
            if has_state(Path(config.output)) and path.is_file():
                changes = keep_earlier_options(path, config)
            yield

    run(script, start, words, guard=guard)


def keep_earlier_options(path: Path, options: Options) -> str:
    """Keep a run's config.yaml as config.N.yaml if a resume changes its options.

    Returns:
        The differences, which are also an event of the run; "" without any.

    Raises:
        UserError: If one of them makes no sense in a resumed run.
    """
    before, now = OmegaConf.load(path), config_to_dict(options)
    is_streamed = any(dict(flatten(one)).get("train.streaming") for one in (before, now))
    fixed = _FIXED | (_FIXED_IN_STREAMS if is_streamed else {})
    differences = []
    for name, (was, value) in changed_values(before, now).items():
        if name.startswith(_UNCOMPARED):
            continue
        reason = next((fixed[one] for one in fixed if f"{name}.".startswith(f"{one}.")), None)
        if reason and "not set" not in (was, value):
            raise UserError(
                f"cannot resume with {name}={value} instead of {was}: {reason}; restore the old "
                "value or choose another output"
            )
        differences.append(f"{name}={value} (was {was})")
    if not differences:
        return ""
    number, text = len(list(path.parent.glob("config.*.yaml"))) + 1, ", ".join(differences)
    kept = path.with_name(f"config.{number}.yaml")
    with atomic_file(kept) as temporary:
        shutil.copyfile(path, temporary)
    # The state may be older than the last tick; the next event says where it resumes.
    last = (read_lines(path.with_name(STATS_FILE)) or [{"images_seen": 0}])[-1]
    log_event(path.parent, "options", last["images_seen"], text, earlier=kept.name)
    return f"{text}; the earlier ones are in {kept}"
