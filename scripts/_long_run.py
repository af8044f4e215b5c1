"""Start a training script that can be stopped and resumed."""

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from scripts._entry import run
from torch_utils.distributed import broadcast_object
from training.run_folder.careful_loop import only_writer
from training.run_folder.state_file import has_state


def run_long(
    script: str,
    train: Callable[[Any, str, bool], None],
    argv: Sequence[str] | None = None,
) -> None:
    """Run a training script, as the only one in its run folder; see `scripts._entry.run`.

    `train` receives the configuration, the command that starts this run, and whether to resume.
    """
    words = list(sys.argv[1:] if argv is None else argv)

    def start(config: Any) -> None:
        # `output` may depend on the time.
        own_words = [word for word in words if not word.startswith(("output=", "resume="))]
        own_words.append(f"output={config.output}")
        command = shlex.join(["python", "-m", f"scripts.{script}", *own_words])
        # `only_writer` has refused a state that must not be resumed.
        train(config, command, broadcast_object(has_state(Path(config.output))))

    def guard(config: Any) -> AbstractContextManager[None]:
        return only_writer(Path(config.output), config.resume)

    run(script, start, words, guard=guard)
