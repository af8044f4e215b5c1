"""Resume an edit or take more steps: whether the states in its folder allow it."""

import json
import logging
from dataclasses import replace
from pathlib import Path

from editing.progress import EditProgress, state_path, write_state
from editing.recipe import weights_hash
from mate3d.checkpoints.storage import load_document
from mate3d.errors import UserError
from mate3d.generator import Generator
from scripts._compose import changed_values
from scripts._edit_options import EditScriptOptions, request_of

_STATE_VERSION = 1

_logger = logging.getLogger(__name__)


def open_progress(config: EditScriptOptions, generator: Generator) -> EditProgress:
    """Return where an edit keeps its progress, and plan more steps if they are asked.

    Raises:
        UserError: If there is nothing to resume, the state belongs to another edit, or more steps
            are asked of an edit that is not finished.
    """
    folder, more = Path(config.output), config.more_steps
    resume, request = "true" if more else config.resume, request_of(config)
    # The edited head does not depend on these.
    del request["report"], request["device"]
    request["masks"] = [f"content {digest[:8]}" for digest in request["masks"]]
    request |= {"weights": weights_hash(generator)[:8], "state_version": _STATE_VERSION}
    progress = EditProgress(folder, request, preview_steps=config.preview_steps)
    if resume == "false":
        return progress
    paths = [state_path(folder, number) for number in range(1, config.num_samples + 1)]
    states = {path: load_document(path) for path in paths if path.is_file()}
    changes = dict.fromkeys(
        f"{name}={value} instead of {was}"
        for state in states.values()
        for name, (was, value) in changed_values(json.loads(state["request"]), request).items()
    )
    if changes or not states:
        reason = ", ".join(changes) or f"{paths[0]} not found"
        if resume == "true":
            raise UserError(f"cannot resume: {reason}")
        _logger.info("starting from the first step: %s", reason)
        return progress
    done = [state for state in states.values() if state["num_steps"] >= state["planned_steps"]]
    if more and len(done) < config.num_samples:
        raise UserError(f"{folder} is not finished; use resume=true, then more_steps={more}")
    for path, state in states.items() if more else ():
        # Written before the first step, so that resume=true continues to the same end.
        write_state(path, state | {"planned_steps": state["planned_steps"] + more})
    return replace(progress, resumes=True)
