"""The `device` option of all scripts."""

import torch

from mate3d.errors import UserError
from mate3d.options import Device


def choose_device(name: Device) -> torch.device:
    """Return the device for auto, cpu or cuda.

    Raises:
        UserError: If there is no such device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but PyTorch finds no CUDA device; use device=cpu")
    has_cuda = torch.cuda.is_available() and name != "cpu"
    return torch.device("cuda" if has_cuda else "cpu")
