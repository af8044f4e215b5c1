"""Random numbers for a batch that do not depend on how the batch is split."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


class BatchRandom:
    """One random generator per sample of a batch, and one shared by all samples.

    Numbers depend only on the key and on each sample's index in the whole batch. They are the same
    whether the batch is processed as a whole, accumulated in parts, or split over processes, and
    reproducing them requires no saved state.

    Args:
        key: Non-negative integers that identify the use, such as seed, iteration and step.
        places: Index of each sample in the whole batch.
    """

    def __init__(
        self, key: Sequence[int], places: Sequence[int], device: torch.device | str = "cpu"
    ):
        self.device = torch.device(device)
        # Indices start at 1 and the shared key is one longer, so that all streams are distinct.
        self._streams = [_generator((*key, 1 + place), self.device) for place in places]
        self.shared = _generator((*key, 0, 0), self.device)

    def __len__(self) -> int:
        return len(self._streams)

    def rand(
        self,
        shape: Sequence[int],  # [B, ...]
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:  # [B, ...] in [0, 1)
        """Sample uniform numbers, each row from its sample's stream."""
        return self._draw(Tensor.uniform_, shape, dtype)

    def randn(
        self,
        shape: Sequence[int],  # [B, ...]
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:  # [B, ...]
        """Sample standard normal numbers, each row from its sample's stream."""
        return self._draw(Tensor.normal_, shape, dtype)

    def _draw(self, fill: Callable, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        assert shape[0] == len(self._streams), (tuple(shape), len(self._streams))
        numbers = torch.empty(tuple(shape), dtype=dtype, device=self.device)
        for row, stream in zip(numbers, self._streams, strict=True):
            fill(row, generator=stream)
        return numbers


def _generator(key: Sequence[int], device: torch.device) -> torch.Generator:
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    # PyTorch accepts seeds as signed 64-bit integers.
    return torch.Generator(device).manual_seed(seed >> 1)
