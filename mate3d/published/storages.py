"""Tensors of snapshots: torch's legacy streams of one storage, and views of storages.

Every size is checked against the available bytes before memory is allocated.
"""

import io
import math
from typing import Any

import torch
from torch import Tensor

from mate3d.published.pickle_machine import Budget, InertUnpickler, RefusedPickleError, shown
from mate3d.published.plain_values import checked_counts

_ELEMENT_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _HeadUnpickler(InertUnpickler):
    """Reads the pickles of a storage stream: its type, key and number of elements."""

    key: str | None = None

    def find_class(self, module: str, name: str) -> torch.dtype:
        if module != "torch" or name not in _ELEMENT_TYPES:
            raise RefusedPickleError(f"{shown(f'{module}.{name}')} is not a numeric storage")
        return _ELEMENT_TYPES[name]

    def persistent_load(self, pid: Any) -> str:
        match pid:
            case ("storage", torch.dtype() as dtype, str(key), str(), int(numel), None):
                is_there = 0 <= numel * dtype.itemsize <= len(self.data)
                if not is_there or self.key is not None:
                    raise RefusedPickleError(f"a storage of {shown(numel)} elements is truncated")
                self.key = key
                return key
        raise RefusedPickleError("a storage stream refers to something other than a storage")


def read_storage(budget: Budget, stream: Any) -> Tensor:  # [numel]
    """Read a complete legacy stream of `torch.save` that holds one storage.

    Raises:
        RefusedPickleError: If it is damaged, in another format, or holds anything else.
    """
    if not isinstance(stream, memoryview):
        raise RefusedPickleError("a storage is not a byte string")
    budget.spend(num_bytes=len(stream))
    # Torch allocates whatever the header announces, and leaves storages uninitialised that its list
    # omits.
    head = _HeadUnpickler(stream, budget)
    _, _, _, _, keys = [head.load() for _ in range(5)]
    if head.key is None or keys != [head.key]:
        raise RefusedPickleError("a storage stream holds something other than a storage")
    try:
        # Loaded to the CPU, whatever device it was stored on.
        storage = torch.load(io.BytesIO(stream), map_location="cpu", weights_only=True)
        return torch.empty(0, dtype=storage.dtype).set_(storage)
    except Exception as error:
        raise RefusedPickleError(f"a storage is damaged ({type(error).__name__})") from None


def make_tensor(
    budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, *unused: Any
) -> Tensor:
    """Return a view of a storage; a view that repeats elements counts as new data.

    Raises:
        RefusedPickleError: If the view leaves the storage, or expands beyond the budget.
    """
    if not isinstance(storage, Tensor) or len(unused) > 3:
        raise RefusedPickleError("a tensor has no storage")
    available = storage.numel()
    if checked_counts((offset,))[0] > available:
        raise RefusedPickleError(f"a tensor starts outside its storage of {available} elements")
    # A size of 0 must not hide how large the others are.
    numel = math.prod(max(count, 1) for count in checked_counts(size))
    if numel > max(available, 1):
        budget.spend(num_bytes=numel * storage.element_size())
    try:
        return storage.as_strided(size, checked_counts(stride), offset)
    except RuntimeError:
        raise RefusedPickleError(
            f"a tensor of shape {size} does not fit its storage of {available} elements"
        ) from None
