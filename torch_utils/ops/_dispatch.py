"""The one place that decides which implementation of an operation runs."""

from typing import Literal

import torch
from torch import Tensor

import torch_utils.ops._extension as _extension

# "auto" takes the kernels for CUDA tensors where they can be had, else PyTorch's operations, which
# "pytorch" always takes.
Implementation = Literal["auto", "pytorch"]


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
