"""Inputs for the operations with kernels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "offset")


@dataclass(frozen=True)
class Place:
    """A namespace of operations, and the device of their tensors."""

    ops: Any = torch.ops.mate3d
    device: str = "cpu"

    @property
    def has_kernels(self) -> bool:
        """Whether kernels compute, or loops over their arithmetic."""
        return self.device == "cuda" or self.ops is not torch.ops.mate3d

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype = torch.float64, layout: str = "contiguous"
    ) -> Tensor:
        """Return normal numbers in a memory layout; the values depend on the shape only."""
        generator = torch.Generator().manual_seed(sum(shape))
        values = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
        return arrange(values.to(dtype).to(self.device), layout)

    def triplane_inputs(
        self,
        dtype: torch.dtype,
        layout: str = "contiguous",
        *,
        channels: int = 8,
        num_points: int = 33,
        size: Sequence[int] = (5, 7),
    ) -> tuple[Tensor, Tensor]:
        """Return a table of planes that are not square and points of which some lie outside."""
        table = self.normal((2, 3, *size, channels), dtype, layout)
        generator = torch.Generator().manual_seed(3)
        points = torch.rand(2, 3, num_points, 2, generator=generator) * 2.8 - 1.4
        points = points.to(torch.float64 if dtype is torch.float64 else torch.float32).to(
            self.device
        )
        return table, arrange(points, layout)


def arrange(x: Tensor, layout: str) -> Tensor:
    """Return the same values in another memory layout."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    if layout == "sliced":
        wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1] + 1)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "offset":
        return x.new_zeros(x.numel() + 1)[1:].view(x.shape).copy_(x)
    return x.contiguous()
