"""The file that a run resumes from; complete even if the run is killed at any moment."""

import json
import logging
import os
import random as python_random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mate3d.atomic import atomic_files
from mate3d.checkpoints.storage import load_document, save_document
from mate3d.errors import UserError

STATE_FILE = "training_state.pt"
_FORMAT_VERSION = 2

_logger = logging.getLogger(__name__)


def previous_path(path: Path) -> Path:
    """Return where `write_state` keeps the state before the newest one."""
    return path.with_stem(f"{path.stem}.previous")


def has_state(run_folder: Path) -> bool:
    """Return whether a folder has a state file to resume from; `read_state` may still reject it."""
    path = run_folder / STATE_FILE
    return path.is_file() or previous_path(path).is_file()


def write_state(
    path: Path, document: Mapping[str, Any], model: object, *, with_previous: bool = True
) -> None:
    """Write a state and all global random numbers; an interrupted write changes no file.

    Args:
        path: The file there becomes `previous_path(path)`.
        document: Plain values and tensors by name.
        model: Plain values that describe the model and the data; a state resumes only runs with
            equal ones.
        with_previous: False replaces the newest state and keeps the previous one.

    Raises:
        UserError: If the file cannot be written, or a number in a tensor is not finite.
    """
    name = find_non_finite(document)
    if name is not None:
        raise UserError(f"{path} not written: {name} is not finite; the previous state is kept")
    header = {
        "format_version": _FORMAT_VERSION,
        "model": json.dumps(model),
        "random": _random_state(),
    }
    with atomic_files(path.parent) as temporary:
        save_document(temporary / path.name, header | dict(document))
        if with_previous and path.is_file():
            _keep(path, temporary)


def read_state(path: Path, model: object) -> dict[str, Any]:
    """Return the document of `write_state`, or the previous one if the newest is unreadable.

    Call `restore_random` with the result after everything that draws random numbers.

    Raises:
        UserError: If neither can be read, or the state belongs to another model.
    """
    path, document = _read_newest(path)
    if document.get("format_version") != _FORMAT_VERSION:
        raise UserError(f"cannot resume: {path} was written by another version of this program")
    if json.loads(document["model"]) != json.loads(json.dumps(model)):
        raise UserError(f"cannot resume: {path} belongs to a run with another model or dataset")
    return document


def restore_random(document: Mapping[str, Any]) -> None:
    """Set all global random numbers to those of a document of `read_state`."""
    state = document["random"]
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    python_random.setstate(state["python"])
    np.random.set_state(state["numpy"])


@torch.no_grad()
def find_non_finite(document: Mapping[str, Any]) -> str | None:
    """Return the dotted name of a tensor that holds a NaN or an infinity."""
    tensors = dict(_floating_tensors(document, ""))
    for device in {tensor.device for tensor in tensors.values()}:
        names = [name for name, tensor in tensors.items() if tensor.device == device]
        # One transfer for all.
        flags = torch.stack([tensors[name].isfinite().all() for name in names]).tolist()
        if not all(flags):
            return names[flags.index(False)]
    return None


def _floating_tensors(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0:
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _floating_tensors(item, f"{name}.{key}" if name else str(key))


def _random_state() -> dict[str, Any]:
    name, keys, position, has_gauss, cached_gaussian = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": python_random.getstate(),
        "numpy": (name, keys.tolist(), position, has_gauss, cached_gaussian),
    }


def _keep(path: Path, temporary: Path) -> None:
    """Keep the newest state as the previous one when the files of `temporary` replace it."""
    previous = previous_path(path)
    try:
        os.link(path, temporary / previous.name)
    except OSError:
        # Without links the newest state is missing for a moment; `read_state` then uses this one.
        os.replace(path, previous)


def _read_newest(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the newest readable state and its path."""
    candidates = [candidate for candidate in (path, previous_path(path)) if candidate.is_file()]
    reasons = [] if path in candidates else [f"{path} not found"]
    for candidate in candidates:
        try:
            document = load_document(candidate)
        except UserError as error:
            reasons.append(str(error))
            continue
        if reasons:
            _logger.warning("%s; resuming from %s", reasons[0], candidate)
        return candidate, document
    raise UserError(f"nothing to resume: {'; '.join(reasons)}")
