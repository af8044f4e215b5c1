"""What operations take on a GPU, without one: seconds, from what they compute and move.

Each takes the longer of two times:

    floating-point operations / (peak of its type * EFFICIENCY of its type)
    bytes read and written / (bandwidth * BANDWIDTH_EFFICIENCY)

and each part of a step at least HOST_SECONDS for every operation that the host starts. Caches are
not modelled: every tensor comes from memory, and a look-up in planes reads all twelve corners.
Single precision is TF32 in convolutions and fp32 in products of matrices, as PyTorch's default is.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from parts import LiveMemory
from torch import Tensor
from torch.utils._pytree import tree_leaves

# Shares of the peaks that large operations usually reach; tensor cores wait for memory more often.
EFFICIENCY = {"fp32": 0.7, "tf32": 0.4, "half": 0.4}
BANDWIDTH_EFFICIENCY = 0.8
# Python, autograd and the launch of a kernel, for each operation.
HOST_SECONDS = 8e-6
_CORNERS = 12


@dataclass(frozen=True)
class GPU:
    """The maker's figures, dense: operations per second by type, bytes, bytes per second."""

    fp32: float
    tf32: float
    half: float
    memory: float
    bandwidth: float


GPUS = {
    "RTX 3090": GPU(35.6e12, 35.6e12, 71e12, 24e9, 936e9),
    "RTX 4090": GPU(82.6e12, 82.6e12, 165e12, 24e9, 1008e9),
    "A100": GPU(19.5e12, 156e12, 312e12, 80e9, 2039e9),
    "H100": GPU(66.9e12, 494e12, 989e12, 80e9, 3350e9),
    "H200": GPU(66.9e12, 494e12, 989e12, 141e9, 4800e9),
}


@dataclass(frozen=True)
class Operation:
    """What one operation takes: its part, type of numbers, operations, and bytes moved."""

    part: str
    kind: str
    flop: int
    moved: int

    def seconds(self, gpu: GPU) -> float:
        """Return the time of the device alone."""
        computing = self.flop / (getattr(gpu, self.kind) * EFFICIENCY[self.kind])
        return max(computing, self.moved / (gpu.bandwidth * BANDWIDTH_EFFICIENCY))


class WorkLog(LiveMemory):
    """Lists all operations that move data, and follows what is alive; use it as a context.

    Args:
        part: Returns the name of what runs now.
    """

    def __init__(self, part: Callable[[], str]):
        super().__init__(part)
        self.entries: list[Operation] = []

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        before = self.operations
        result = super().__torch_dispatch__(function, types, args, kwargs)
        read, written = _tensors((args, kwargs or {})), _tensors(result)
        name = function.name()
        # Others ask only for a device or a size.
        moves = name.startswith(("aten::", "mate3d::")) and "empty" not in name
        if moves and not function.is_view and written:
            flop = self.operations - before
            moved = _bytes_of_look_up(function, read, written)
            if moved is None:
                moved = sum(map(_num_bytes, (*read, *written)))
            self.entries.append(Operation(self._part(), _kind(function, read), flop, moved))
        return result


def seconds_by_part(entries: Iterable[Operation], gpu: GPU) -> dict[str, float]:
    """Return the seconds of each part: of the device, or of the host if that takes longer."""
    device: defaultdict[str, float] = defaultdict(float)
    host: defaultdict[str, float] = defaultdict(float)
    for entry in entries:
        device[entry.part] += entry.seconds(gpu)
        host[entry.part] += HOST_SECONDS
    return {part: max(seconds, host[part]) for part, seconds in device.items()}


def _kind(function: Any, tensors: list[Tensor]) -> str:
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in tensors):
        return "half"
    return "tf32" if "convolution" in function.name() else "fp32"


def _num_bytes(tensor: Tensor) -> int:
    # Expanded tensors are read once.
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    count = 1
    for size, stride in sizes:
        count *= size if stride else 1
    return count * tensor.element_size()


def _bytes_of_look_up(function: Any, read: list[Tensor], written: list[Tensor]) -> int | None:
    """Return the bytes of all corners; a gradient of planes reads and writes them."""
    name = function.name()
    if "triplane_sample" not in name:
        return None
    points = next(each for each in read if each.shape[-1] == 2)
    features = written[0] if name.endswith("triplane_sample") else read[0]
    passes = 2 if "table_grad" in name else 1
    num_points = points.shape[0] * points.shape[2]
    return passes * _CORNERS * num_points * features.shape[-1] * features.element_size()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
