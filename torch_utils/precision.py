"""Names of precisions, and what must not run in the low precision that autocast chooses."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def own_precision(x: Tensor) -> AbstractContextManager:
    """Suspend autocast, so that an operation computes in the type of its inputs."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def at_least_single(x: Tensor) -> Tensor:
    """Return half precision as float32, other types as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def computes_in_float16(x: Tensor) -> bool:
    """Return whether products with a tensor are taken in float16, by its type or by autocast."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device) == torch.float16
    return x.dtype == torch.float16
