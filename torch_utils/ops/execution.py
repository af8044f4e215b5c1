"""How an operation runs: by a kernel or by PyTorch's operations, and in which precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

import torch_utils.ops._extension as _extension

# "auto" takes the kernels for CUDA tensors where they can be had, else PyTorch's operations, which
# "pytorch" always takes.
Implementation = Literal["auto", "pytorch"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def wants_kernels(x: Tensor, impl: Implementation) -> bool:
    """Return whether the kernels are to run; the first CUDA tensor loads or compiles them."""
    assert impl in ("auto", "pytorch"), impl
    return impl == "auto" and x.is_cuda and _extension.load()


def wants_library(x: Tensor, impl: Implementation) -> bool:
    """Return whether an operation registered with PyTorch is to run.

    A graph compiler sees it as one node, and its own dispatch finds the kernel or PyTorch's
    operations when the node runs.
    """
    if torch.compiler.is_compiling():
        return impl == "auto"
    return wants_kernels(x, impl)


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
