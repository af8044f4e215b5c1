"""The state of a running edit in a file; an edit that continues from it is exact on a CPU.

Most texels of the plane offsets are far from the region. They and their moments stay zero, and only
the others are stored.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editing.loop import EditLoop
from mate3d.atomic import atomic_file
from mate3d.checkpoints.storage import load_document, save_document
from mate3d.errors import UserError

_FORMAT_VERSION = 1
_MOMENTS = "exp_avg", "exp_avg_sq"
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
    parameters = []
    for parameter, good in zip(loop.parameters, loop.last_good, strict=True):
        moments = loop.optimizer.state.get(parameter, {})
        rows = [parameter, good, *(moments[name] for name in _MOMENTS if moments)]
        parameters.append(_pack(rows) | {"step": moments.get("step")})
    return {
        "format_version": _FORMAT_VERSION,
        "request": json.dumps(dict(request)),
        "generator_sha256": generator_sha256,
        "parameters": parameters,
        "rates": [group["lr"] for group in loop.optimizer.param_groups],
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
    for parameter, good, packed in zip(
        loop.parameters, loop.last_good, state["parameters"], strict=True
    ):
        rows = _unpack(packed, parameter)
        for tensor, row in zip((parameter, good), rows, strict=False):
            tensor.copy_(row)
        if packed["step"] is not None:
            moments = dict(zip(_MOMENTS, rows[2:], strict=True))
            loop.optimizer.state[parameter] = {"step": packed["step"], **moments}
    for group, rate in zip(loop.optimizer.param_groups, state["rates"], strict=True):
        group["lr"] = rate
    loop.schedule.load_state_dict(state["schedule"])
    loop.generator.set_state(state["random"])
    if loop.objective:
        loop.objective.load_state(state["objective"])
    for name in _COUNTERS:
        setattr(loop, name, state[name])


def _pack(rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the columns of tensors of one shape where any of them is not zero."""
    table = torch.stack([row.detach().flatten() for row in rows])
    index = table.any(dim=0).nonzero()[:, 0]
    return {"index": index.int().cpu(), "values": table[:, index].cpu()}


def _unpack(packed: Mapping[str, Tensor], like: Tensor) -> list[Tensor]:
    """Undo `_pack`, with the memory layout of a tensor, because sums depend on it."""
    index, tensors = packed["index"].to(like.device).long(), []
    for values in packed["values"].to(like.device):
        flat = values.new_zeros(like.numel())
        flat[index] = values
        tensors.append(torch.empty_like(like).copy_(flat.view(like.shape)))
    return tensors
