"""Tensors of snapshots: torch's legacy stream of one storage, and views on storages.

Every size is checked against bytes that are there before memory is taken for it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mate3d.published.pickle_machine import (
    Budget,
    Global,
    PickleMachine,
    RefusedPickleError,
    shown,
)

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_STREAM_PROTOCOL = 1001
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
_MAX_DIMENSIONS = 16


@dataclass(eq=False)
class Storage:
    """Elements that tensors are views of, [numel]."""

    data: Tensor


@dataclass(frozen=True)
class _Announced:
    """A storage as its stream's pickle names it, before its bytes are read."""

    dtype: torch.dtype
    key: str
    numel: int


class _StreamRules:
    """The pickles of a storage stream hold plain data and name the storage's element type."""

    def resolve(self, module: str, name: str) -> Global:
        if module != "torch" or name not in _ELEMENT_TYPES:
            raise RefusedPickleError(f"{shown(f'{module}.{name}')} is not a storage of numbers")
        return Global(module, name)

    def call(self, function: Global, arguments: tuple[Any, ...]) -> Any:
        raise RefusedPickleError(f"it calls {function.module}.{function.name}")

    def new(self, cls: Global) -> Any:
        raise RefusedPickleError(f"it makes an instance of {cls.module}.{cls.name}")

    def build(self, instance: Any, state: Any) -> None:
        raise RefusedPickleError(f"it sets the state of {shown(instance)}")

    def load_persistent(self, identifier: Any) -> _Announced:
        # The location ("cuda:0" for some tensors) does not matter: everything is read as CPU.
        match identifier:
            case ("storage", Global(name=name), str(key), str(), int(numel), None):
                if numel < 0:
                    raise RefusedPickleError(f"a storage has {shown(numel)} elements")
                return _Announced(_ELEMENT_TYPES[name], key, numel)
        raise RefusedPickleError("a storage stream refers to something that is no storage")


def read_storage(stream: memoryview, budget: Budget) -> Storage:
    """Read a complete legacy stream of `torch.save` that holds one storage.

    Raises:
        RefusedPickleError: If it is damaged, of another format, or holds anything else.
    """
    machine = PickleMachine(stream, _StreamRules(), budget)
    if bytes(stream[:2]) == b"PK":
        raise RefusedPickleError("a storage is a zip archive; snapshots hold the legacy format")
    if machine.load() != _MAGIC_NUMBER or machine.load() != _STREAM_PROTOCOL:
        raise RefusedPickleError("a storage is not a stream of torch.save")
    system = machine.load()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise RefusedPickleError("a storage was not written on a little-endian machine")
    announced, keys = machine.load(), machine.load()
    if not isinstance(announced, _Announced) or keys != [announced.key]:
        raise RefusedPickleError("a storage stream holds something that is no storage")
    numel = int.from_bytes(machine.take(8), "little", signed=True)
    if numel != announced.numel:
        raise RefusedPickleError(
            f"a storage announces {shown(announced.numel)} elements and stores {numel}"
        )
    num_bytes = numel * announced.dtype.itemsize
    content = machine.take(num_bytes)
    budget.spend(num_bytes=num_bytes)
    if numel == 0:
        return Storage(torch.empty(0, dtype=announced.dtype))
    # A copy, because bytes in the middle of a file are not aligned.
    return Storage(torch.frombuffer(bytearray(content), dtype=announced.dtype))


def make_tensor(storage: Any, offset: Any, size: Any, stride: Any, budget: Budget) -> Tensor:
    """Return a view on a storage; one that repeats elements counts as new data.

    Raises:
        RefusedPickleError: If the view reaches outside, or unfolds to more than the budget.
    """
    if not isinstance(storage, Storage):
        raise RefusedPickleError("a tensor has no storage")
    if not _are_counts((offset,)) or not _are_counts(size) or not _are_counts(stride):
        raise RefusedPickleError(
            "the offset, shape and strides of a tensor must be 0 or more, and at most"
            f" {_MAX_DIMENSIONS}"
        )
    if len(size) != len(stride):
        raise RefusedPickleError(f"a tensor has {len(size)} sizes and {len(stride)} strides")
    numel, available = 1, storage.data.numel()
    for count in size:
        numel *= count
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if offset > available or (numel > 0 and last >= available):
        raise RefusedPickleError(
            f"a tensor of shape {_shape(size)} reaches outside its storage of {available} elements"
        )
    if numel > available:
        budget.spend(num_bytes=numel * storage.data.element_size())
    if numel == 0:
        _check_empty(size)
    return storage.data.as_strided(size, stride, offset)


def _are_counts(values: Any) -> bool:
    if type(values) is not tuple or len(values) > _MAX_DIMENSIONS:
        return False
    return all(type(value) is int and 0 <= value < 2**62 for value in values)


def _shape(size: tuple[int, ...]) -> str:
    return shown("x".join(map(str, size)) or "()")


def _check_empty(size: tuple[int, ...]) -> None:
    """Refuse shapes such as 0 x 2**61, whose products do not fit the framework's counters."""
    if any(count > 2**31 for count in size):
        raise RefusedPickleError(f"a tensor has the shape {_shape(size)}")
