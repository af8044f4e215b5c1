"""Selects how an operation runs: with a kernel or PyTorch operations, and its precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

import torch_utils.ops._extension as _extension

# "auto" uses the kernels for CUDA tensors if available, else PyTorch operations; "pytorch" always
# uses PyTorch operations.
Implementation = Literal["auto", "pytorch"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def wants_kernels(x: Tensor, impl: Implementation) -> bool:
    """Return whether to use the kernels; the first CUDA tensor loads or compiles them."""
    assert impl in ("auto", "pytorch"), impl
    return impl == "auto" and x.is_cuda and _extension.load()


def wants_library(x: Tensor, impl: Implementation) -> bool:
    """Return whether to use the operation registered with PyTorch.

    Graph compilers see it as a single node, which selects the kernel or PyTorch operations when it
    runs.
    """
    if torch.compiler.is_compiling():
        return impl == "auto"
    return wants_kernels(x, impl)


def own_precision(x: Tensor) -> AbstractContextManager:
    """Disable autocast, so that operations run in the dtype of their inputs."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def at_least_single(x: Tensor) -> Tensor:
    """Convert half precision to float32; return other dtypes unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def channels_last_if_faster(
    x: Tensor,  # [B, C, H, W]
) -> Tensor:
    """Convert to the layout that convolutions read fastest.

    It is channels-last on a CPU (up to 1.6 times as fast), and for half precision on a GPU, whose
    tensor cores read it; for others the image is returned as it is.
    """
    if x.device.type == "cpu" or torch.is_autocast_enabled(x.device.type):
        return x.contiguous(memory_format=torch.channels_last)
    return x


def computes_in_float16(x: Tensor) -> bool:
    """Return whether products with a tensor run in float16, by its dtype or by autocast."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device) == torch.float16
    return x.dtype == torch.float16
