"""The random numbers of one augmentation of a batch."""

import torch
from torch import Tensor

from torch_utils.batch_random import BatchRandom

# At least what all transforms together ask for.
_NUM_UNIFORM = 24
_NUM_NORMAL = 8


class Dice:
    """Numbers for each sample, drawn at once: asking each sample's generator often is slow.

    Args:
        random: Where the numbers come from.
        probability: Of each transform, 0..1.
    """

    def __init__(self, random: BatchRandom, probability: float):
        num_batch = len(random)
        self.probability = probability
        self._uniform = iter(random.rand((num_batch, _NUM_UNIFORM)).unbind(1))
        self._normal = iter(random.randn((num_batch, _NUM_NORMAL)).unbind(1))

    def uniform(self, low: float, high: float) -> Tensor:  # [B]
        """Return numbers evenly spread over [low, high)."""
        return low + (high - low) * next(self._uniform)

    def normal(self, std: float) -> Tensor:  # [B]
        """Return normal numbers of mean 0."""
        return std * next(self._normal)

    def log_normal(self, octaves: float) -> Tensor:  # [B]
        """Return positive numbers whose binary logarithm has a standard deviation."""
        return torch.exp2(self.normal(octaves))

    def integer(self, count: int) -> Tensor:  # [B], whole numbers in 0..count - 1
        """Return one of the first whole numbers."""
        return self.uniform(0, count).floor()

    def hits(self, probability: float | None = None) -> Tensor:  # [B], bool
        """Decide for each sample whether a transform takes place.

        Args:
            probability: Another one than the common one.
        """
        return next(self._uniform) < (self.probability if probability is None else probability)
