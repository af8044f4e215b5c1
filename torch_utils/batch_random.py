"""Random numbers of a batch that do not depend on how the batch is split."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class BatchRandom:
    """A source of random numbers for each sample of a batch, and one that all samples share.

    The numbers depend on the key and on the samples' places in the whole batch only, not on which
    process draws them or in what company: a batch trained at once, in parts one after another, or
    spread over processes sees the same ones. Nothing has to be saved to draw them again.

    Args:
        key: Non-negative numbers that name the occasion, such as seed, iteration and step.
        places: Number of each sample in the whole batch.
        device: Where the numbers are needed.
    """

    def __init__(
        self,
        key: Sequence[int],
        places: Sequence[int],
        device: torch.device | str = "cpu",
    ):
        self.device = torch.device(device)
        # Places count from 1 and the shared key is one number longer, so no stream is another's.
        self._streams = [_generator((*key, 1 + place), self.device) for place in places]
        self.shared = _generator((*key, 0, 0), self.device)

    def __len__(self) -> int:
        return len(self._streams)

    def rand(
        self,
        shape: Sequence[int],  # [B, ...]
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:  # [B, ...] in [0, 1)
        """Draw uniform numbers, each sample from its own stream."""
        numbers = self._empty(shape, dtype)
        for row, stream in zip(numbers, self._streams, strict=True):
            row.uniform_(generator=stream)
        return numbers

    def randn(
        self,
        shape: Sequence[int],  # [B, ...]
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:  # [B, ...]
        """Draw standard normal numbers, each sample from its own stream."""
        numbers = self._empty(shape, dtype)
        for row, stream in zip(numbers, self._streams, strict=True):
            row.normal_(generator=stream)
        return numbers

    def _empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        assert shape[0] == len(self._streams), (tuple(shape), len(self._streams))
        return torch.empty(tuple(shape), dtype=dtype, device=self.device)


def _generator(key: Sequence[int], device: torch.device) -> torch.Generator:
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    # PyTorch takes seeds as signed numbers of 64 bits.
    return torch.Generator(device).manual_seed(seed >> 1)
