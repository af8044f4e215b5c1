"""Resume an edit or take more steps: whether the states in its folder allow it."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from editing.edit_state import read_state, state_path, write_state
from editing.progress import EditProgress
from mate3d.errors import UserError
from scripts._compose import changed_values
from scripts._edit_options import EditScriptOptions, request_of

# Options that may change, because the edited head does not depend on them.
_FREE = ("report", "device")

_logger = logging.getLogger(__name__)


def open_progress(config: EditScriptOptions, *, in_list: bool) -> EditProgress:
    """Return where an edit keeps its progress, and let it take more steps if that is asked.

    Args:
        in_list: Resume if a state fits, whatever `resume` says.

    Raises:
        UserError: If there is nothing to resume, the state belongs to other options, or more steps
            are asked of an edit that is not finished.
    """
    folder, resume = Path(config.output), "auto" if in_list else config.resume
    request = {name: value for name, value in request_of(config).items() if name not in _FREE}
    request["masks"] = [f"content {digest[:8]}" for digest in request["masks"]]
    progress = EditProgress(folder, request, preview_steps=config.preview_steps)
    if resume == "false" and not config.more_steps:
        return progress
    paths = [state_path(folder, number) for number in range(1, config.num_samples + 1)]
    states = {path: read_state(path) for path in paths if path.is_file()}
    must = bool(config.more_steps) or resume == "true"
    if not states:
        if must:
            raise UserError(f"nothing to resume: {paths[0]} not found")
        return progress
    changes = {
        f"{name}={value} instead of {was}": None
        for state in states.values()
        for name, (was, value) in changed_values(json.loads(state["request"]), request).items()
    }
    if changes and must:
        raise UserError(
            f"cannot resume with {', '.join(changes)}; restore the old values or choose another "
            "output"
        )
    if changes:
        _logger.info("starting from the first step, because of %s", ", ".join(changes))
        return progress
    if config.more_steps:
        _plan_more(states, config)
    return replace(progress, resumes=True)


def _plan_more(states: dict[Path, dict[str, Any]], config: EditScriptOptions) -> None:
    for path, state in states.items():
        if state["num_steps"] < state["planned_steps"]:
            raise UserError(
                f"{path} stopped after step {state['num_steps']} of {state['planned_steps']}; "
                "finish it with resume=true, then take more steps"
            )
    if len(states) < config.num_samples:
        raise UserError(
            f"only {len(states)} of num_samples={config.num_samples} are there; make the others "
            "with resume=true, then take more steps"
        )
    # Written before the first step, so that resume=true continues to the same end.
    for path, state in states.items():
        write_state(path, state | {"planned_steps": state["planned_steps"] + config.more_steps})
