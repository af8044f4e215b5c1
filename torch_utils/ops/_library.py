"""Registration of the operations with PyTorch, in the namespace `torch.ops.mate3d`.

An operation is implemented by PyTorch operations until the extension, loaded by the first CUDA
tensor, registers a kernel for it. Importing compiles nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_fake

import torch_utils.ops._extension as _extension

# Registrations live as long as this object.
LIBRARY = Library("mate3d", "FRAGMENT")


def register(
    schema: str,
    pytorch: Callable[..., Tensor],
    fake: Callable[..., Tensor],
    *,
    deterministic: bool = True,
) -> None:
    """Register an operation with the dispatcher and graph compilers.

    Args:
        schema: Name, arguments and results as a PyTorch schema.
        pytorch: Implementation with PyTorch operations, without autograd.
        fake: Returns a tensor with the result's shape, dtype and layout.
        deterministic: Whether the kernel is bitwise reproducible. If not, it is named
            `<name>_atomic` and called from here, and PyTorch operations replace it under
            `torch.use_deterministic_algorithms`.
    """
    name, _, arguments = schema.partition("(")
    kernel = name if deterministic else f"{name}_atomic"
    for defined in {name, kernel}:
        LIBRARY.define(f"{defined}({arguments}")

    def run(*args: Any) -> Tensor:
        # CUDA tensors get here only before a kernel is registered.
        may_use_kernel = deterministic or not torch.are_deterministic_algorithms_enabled()
        if args[0].is_cuda and may_use_kernel and _extension.load():
            return getattr(torch.ops.mate3d, kernel)(*args)
        return pytorch(*args)

    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    register_fake(f"mate3d::{name}", fake, lib=LIBRARY)
