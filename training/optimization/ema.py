"""Exponential moving average of a network's weights."""

import copy

import torch
from torch import nn


def make_average(network: nn.Module) -> nn.Module:
    """Return a frozen copy in eval mode, to be updated by `update_average`."""
    return copy.deepcopy(network).eval().requires_grad_(False)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average's parameters towards the network's, in place, and copy the buffers.

    Args:
        decay: Weight of the old average; 0 copies the network.
    """
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    if buffers := list(average.buffers()):
        torch._foreach_copy_(buffers, list(network.buffers()))
