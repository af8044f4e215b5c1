"""The state of a running edit in a file; an edit that continues from it is exact on a CPU."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from editing.loop import EditLoop
from mate3d.atomic import atomic_file
from mate3d.checkpoints.storage import load_document, save_document
from mate3d.errors import UserError

_FORMAT_VERSION = 1
# Attributes of the loop that are plain values.
_COUNTERS = (
    *("planned_steps", "num_steps", "num_skipped", "num_skipped_in_a_row"),
    *("history", "norms", "seconds"),
)


def state_path(folder: str | Path, number: int = 1) -> Path:
    """Return the file of a sample's state; samples count from 1."""
    return Path(folder, "edit_state.pt" if number == 1 else f"edit_state_{number}.pt")


def make_state(loop: EditLoop, request: Mapping[str, Any], generator_sha256: str) -> dict[str, Any]:
    """Return all that the next steps of a loop depend on.

    Args:
        request: Options by name that a resumed edit must have too; JSON values.
        generator_sha256: Hash of the generator's weights.
    """
    return {
        "format_version": _FORMAT_VERSION,
        "request": json.dumps(dict(request)),
        "generator_sha256": generator_sha256,
        "parameters": [parameter.detach() for parameter in loop.parameters],
        "last_good": loop.last_good,
        "optimizer": loop.optimizer.state_dict(),
        "schedule": loop.schedule.state_dict(),
        "random": loop.generator.get_state(),
        "objective": loop.objective.state() if loop.objective else {},
        **{name: getattr(loop, name) for name in _COUNTERS},
    }


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the state in a file; an interrupted write keeps the older one.

    Raises:
        UserError: If the file cannot be written.
    """
    with atomic_file(path) as temporary:
        save_document(temporary, state)


def read_state(path: Path) -> dict[str, Any]:
    """Read a state.

    Raises:
        UserError: If the file is missing, damaged or of another version.
    """
    state = load_document(path)
    if state.get("format_version") != _FORMAT_VERSION:
        raise UserError(f"cannot resume: {path} was written by another version of this program")
    return state


@torch.no_grad()
def restore(loop: EditLoop, state: Mapping[str, Any], generator_sha256: str) -> None:
    """Bring a new loop of the same edit into a state.

    Raises:
        UserError: If the generator has other weights.
    """
    if state["generator_sha256"] != generator_sha256:
        raise UserError("cannot resume: the edit was begun with a generator of other weights")
    for name, tensors in (("parameters", loop.parameters), ("last_good", loop.last_good)):
        for tensor, saved in zip(tensors, state[name], strict=True):
            tensor.copy_(saved)
    loop.optimizer.load_state_dict(state["optimizer"])
    loop.schedule.load_state_dict(state["schedule"])
    loop.generator.set_state(state["random"])
    if loop.objective:
        loop.objective.load_state(state["objective"])
    for name in _COUNTERS:
        setattr(loop, name, state[name])
