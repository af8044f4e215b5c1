"""The operations as PyTorch's library sees them, in the namespace `torch.ops.mate3d`.

An operation runs PyTorch's operations until the extension, loaded by the first CUDA tensor,
registers a kernel for it. Nothing is compiled by importing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_fake

import torch_utils.ops._extension as _extension

# The registrations last as long as this object.
LIBRARY = Library("mate3d", "FRAGMENT")


def register(
    schema: str,
    pytorch: Callable[..., Tensor],
    fake: Callable[..., Tensor],
    *,
    deterministic: bool = True,
) -> None:
    """Make an operation known to the dispatcher and to graph compilers.

    Args:
        schema: Name, arguments and results in PyTorch's language.
        pytorch: What it computes, by PyTorch's operations, without autograd.
        fake: Shape, type and layout of the result.
        deterministic: Whether the kernel repeats bit for bit. One that does not has the name
            `<name>_atomic`: each call comes here first, and under
            `torch.use_deterministic_algorithms` PyTorch's operations take its place.
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
