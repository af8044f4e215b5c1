"""The operations as PyTorch's library sees them: schema, shapes, implementations, derivatives.

Importing this module makes `torch.ops.mate3d` known to dispatcher, autograd and graph compilers;
nothing is compiled. An operation runs PyTorch's operations until the extension, loaded by the first
CUDA tensor, registers a kernel for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake

import torch_utils.ops._extension as _extension

NAMESPACE = "mate3d"


@dataclass(frozen=True)
class Operation:
    """One operation of the library.

    Args:
        schema: Name, arguments and results in PyTorch's language.
        pytorch: What it computes, by PyTorch's operations, without autograd.
        fake: Shapes, types and layouts of the results.
        save: Keeps for the backward pass what it needs, as `setup_context` of a `Function`.
        backward: Gradients of all arguments; its first argument is the namespace whose operations
            it calls, then follow the context and the results' gradients.
        deterministic: Whether the kernel repeats bit for bit; PyTorch's operations take its place
            under `torch.use_deterministic_algorithms` if not.
    """

    schema: str
    pytorch: Callable[..., Tensor]
    fake: Callable[..., Tensor]
    save: Callable[..., None]
    backward: Callable[..., tuple[Any, ...]]
    deterministic: bool = True

    @property
    def name(self) -> str:
        """Name in a namespace."""
        return self.schema.partition("(")[0]

    @property
    def kernel(self) -> str:
        """Name under which the extension registers the kernel."""
        return self.name if self.deterministic else f"{self.name}_atomic"

    def run(self, *args: Any) -> Tensor:
        """Compute on any device; CUDA tensors get here only before a kernel is registered.

        A kernel that is not deterministic has a name of its own, so that each call comes here.
        """
        may_use_kernel = self.deterministic or not torch.are_deterministic_algorithms_enabled()
        if args[0].is_cuda and may_use_kernel and _extension.load():
            return getattr(torch.ops.mate3d, self.kernel)(*args)
        return self.pytorch(*args)


def define(library: Library, operation: Operation) -> None:
    """Make an operation known under the library's namespace."""
    library.define(operation.schema)
    if not operation.deterministic:
        arguments = operation.schema.removeprefix(operation.name)
        library.define(operation.kernel + arguments)
    library.impl(operation.name, operation.run, "CompositeExplicitAutograd")


def describe(library: Library, operation: Operation) -> None:
    """Give an operation of the library's namespace its shape function and its derivatives."""
    name = f"{library.ns}::{operation.name}"
    register_fake(name, operation.fake, lib=library)
    backward = partial(operation.backward, getattr(torch.ops, library.ns))
    register_autograd(name, backward, setup_context=operation.save, lib=library)


def no_third_derivatives(_ops: Any, ctx: Any, *_grads: Tensor) -> tuple[Any, ...]:
    """Stand for the derivatives of what is itself part of second derivatives."""
    raise RuntimeError("derivatives of third order are available with impl='reference' only")
