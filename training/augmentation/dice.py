"""Random numbers for one augmentation of a batch."""

import torch
from torch import Tensor

from torch_utils.batch_random import BatchRandom

# At least as many as all transforms together use.
_NUM_UNIFORM = 24
_NUM_NORMAL = 8


class Dice:
    """Random numbers per sample, all generated up front because many small requests are slow."""

    def __init__(self, random: BatchRandom, probability: float):
        self.probability = probability
        self._uniform = iter(random.rand((len(random), _NUM_UNIFORM)).unbind(1))
        self._normal = iter(random.randn((len(random), _NUM_NORMAL)).unbind(1))

    def uniform(self, low: float, high: float) -> Tensor:  # [B]
        """Return uniform numbers in [low, high)."""
        return low + (high - low) * next(self._uniform)

    def normal(self, std: float) -> Tensor:  # [B]
        """Return normal numbers with mean 0."""
        return std * next(self._normal)

    def log_normal(self, octaves: float) -> Tensor:  # [B]
        """Return positive numbers whose binary logarithm has standard deviation `octaves`."""
        return torch.exp2(self.normal(octaves))

    def integer(self, count: int) -> Tensor:  # [B], float, integers in 0..count - 1
        """Return uniform integers."""
        return self.uniform(0, count).floor()

    def hits(self, probability: float | None = None) -> Tensor:  # [B], bool
        """Decide per sample whether to apply a transform; None uses the common probability."""
        return next(self._uniform) < (self.probability if probability is None else probability)
