"""`torch.compile` for the networks that training spends its time in."""

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import nn


def compile_modules(modules: Iterable[nn.Module]) -> None:
    """Compile modules in place on their first call; names of their weights stay the same."""
    for module in modules:
        module.compile()


def not_compiled() -> AbstractContextManager[None]:
    """Return a context in which compiled modules run as written: compiled ones know no second
    derivative, which penalties on gradients need."""
    return torch.compiler.set_stance("force_eager")
