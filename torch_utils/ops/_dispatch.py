"""The one place that decides which implementation of an operation runs."""

from typing import Literal

import torch
from torch import Tensor

import torch_utils.ops._extension as _extension

Implementation = Literal["auto", "pytorch", "reference"]


def wants_reference(impl: Implementation) -> bool:
    """Return whether the plain formula was asked for instead of a faster implementation.

    Args:
        impl: "auto" takes the fastest implementation for the tensors at hand: the kernels for
            CUDA tensors where they can be had, else PyTorch's operations. "pytorch" never takes a
            kernel, and "reference" is the plain formula that the others are tested against.
    """
    if impl not in ("auto", "pytorch", "reference"):
        raise ValueError(f"impl is {impl!r}; allowed are 'auto', 'pytorch' and 'reference'")
    return impl == "reference"


def wants_kernels(x: Tensor, impl: Implementation) -> bool:
    """Return whether the kernels are to run; the first CUDA tensor loads or compiles them."""
    return impl == "auto" and x.is_cuda and _extension.load()


def wants_library(x: Tensor, impl: Implementation) -> bool:
    """Return whether an operation registered with PyTorch is to run.

    A graph compiler sees it as one node, and its own dispatch finds the kernel or PyTorch's
    operations when the node runs.
    """
    if torch.compiler.is_compiling():
        return impl == "auto"
    return wants_kernels(x, impl)
