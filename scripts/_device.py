"""The `device` option of all scripts."""

import torch

from mate3d.errors import UserError


def choose_device(name: str) -> torch.device:
    """Return the device for auto, cpu or cuda.

    Raises:
        UserError: If the name is unknown, or there is no such device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={name}; use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but PyTorch finds no CUDA device; use device=cpu")
    has_cuda = torch.cuda.is_available() and name != "cpu"
    return torch.device("cuda" if has_cuda else "cpu")
