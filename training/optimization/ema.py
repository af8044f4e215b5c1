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
    for old, new in zip(average.parameters(), network.parameters(), strict=True):
        old.lerp_(new, 1 - decay)
    for old, new in zip(average.buffers(), network.buffers(), strict=True):
        old.copy_(new)
