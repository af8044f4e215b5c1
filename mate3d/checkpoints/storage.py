"""The parts of checkpoints: safetensors and plain documents."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mate3d.errors import UserError


def save_weights(
    path: str | Path,
    state: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors as safetensors.

    Args:
        dtype: Precision of floating-point tensors; None keeps theirs.
        metadata: Texts to store with them.

    Raises:
        OSError: If the file cannot be written.
    """
    tensors = {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        for name, value in state.items()
    }
    # Written here, because safetensors' own errors hide those of the system.
    Path(path).write_bytes(save(tensors, dict(metadata or {})))


def save_document(path: str | Path, document: Mapping[str, Any]) -> None:
    """Write plain values and tensors in PyTorch's format.

    Raises:
        OSError: If the file cannot be written.
    """
    with Path(path).open("wb") as file:
        try:
            torch.save(dict(document), file)
        except RuntimeError as error:
            # Finishing the broken archive also fails and hides the cause.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_document(path: str | Path) -> dict[str, Any]:
    """Read a file written by `save_document` to the CPU; nothing in it is executed.

    Checks every checksum, which `torch.load` does not.

    Raises:
        UserError: If the file is missing or damaged.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} not found")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
        reason = f"its part {damaged} is damaged"
    # Damaged archives can raise anything, depending on where the damage is.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(f"{path} cannot be read: {reason}")


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read safetensors; floating-point tensors become float32.

    Raises:
        UserError: If the file is missing or damaged.
    """
    if not Path(path).is_file():
        raise UserError(f"weights not found: {path}")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights {path} cannot be read: {error}") from None
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
    }


def load_state_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load tensors into a module; all names and shapes must match.

    Raises:
        UserError: Listing missing, unexpected and misshapen tensors.
    """
    expected = module.state_dict()
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(set(state) - set(expected))
    misshapen = sorted(
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in set(state) & set(expected)
        if state[name].shape != expected[name].shape
    )
    if missing or unexpected or misshapen:
        parts = {"missing": missing, "unexpected": unexpected, "wrong shape": misshapen}
        detail = "; ".join(f"{kind}: {names[:4]}" for kind, names in parts.items() if names)
        raise UserError(f"{source} does not fit its config ({detail})")
    module.load_state_dict(state)
