"""Plain values of Python, NumPy and torch that snapshots carry beside their tensors.

Each comes back as the nearest inert value: a path or device as text, a shape as a tuple, every kind
of dict as a dict. Names of number types are only names.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from mate3d.published.pickle_machine import (
    Budget,
    Global,
    RefusedPickleError,
    checked_key,
    shown,
)

_NUMPY_MODULES = ("numpy.core", "numpy._core")
_BUILTINS = ("builtins", "__builtin__")  # the latter in protocol 2
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_MAX_NUMBER = 1e9
_SCALAR_FORMATS = {
    "f2": "e",
    "f4": "f",
    "f8": "d",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
    "b1": "?",
}
_NUMBER_TYPES = (
    *(f"float{bits}" for bits in (16, 32, 64)),
    *(f"int{bits}" for bits in (8, 16, 32, 64)),
    *("uint8", "bfloat16", "bool", "half", "float", "double", "int", "long", "bool_"),
)
# What an attribute may name without anything being made of it.
TYPE_NAMES = frozenset(
    {(module, name) for module in ("torch", "numpy") for name in _NUMBER_TYPES}
    | {
        (module, name)
        for module in _BUILTINS
        for name in ("bool", "int", "long", "float", "str", "unicode", "bytes", "list", "dict")
    }
    | {(module, name) for module in _BUILTINS for name in ("tuple", "set", "frozenset")}
    | {("torch", "Tensor"), ("torch.nn.parameter", "Parameter"), ("numpy", "ndarray")}
    | {("dnnlib.util", "EasyDict")}
)


@dataclass(frozen=True)
class StandIn:
    """What is done instead of calling a function that a file names.

    Args:
        run: Makes an inert value of the arguments.
        least: Fewest arguments.
        most: Most arguments.
    """

    run: Callable[..., Any]
    least: int
    most: int


@dataclass(eq=False)
class NumpyType:
    """A dtype of plain numbers or of short texts: its code and, once known, its byte order."""

    code: str
    byte_order: str = "<"


@dataclass(eq=False)
class NumpyArray:
    """An array of plain numbers; None until its state is known."""

    values: np.ndarray | None = field(default=None, repr=False)


def make_stand_ins(budget: Budget) -> dict[tuple[str, str], StandIn]:
    """Return what stands in for the functions that make plain values, by (module, name)."""

    def encode(text: Any, encoding: Any) -> memoryview:
        """Make bytes as protocol 2 writes them."""
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise RefusedPickleError("it encodes something other than bytes")
        budget.spend(num_bytes=len(text))
        return memoryview(text.encode("latin1", errors="replace"))

    def byte_array(content: Any = b"", encoding: Any = None) -> memoryview:
        if encoding is not None:
            return encode(content, encoding)
        if not isinstance(content, bytes | memoryview):
            raise RefusedPickleError("an array of bytes is not made of bytes")
        return memoryview(content)

    def members(items: Any = ()) -> list[Any]:
        if type(items) not in (list, tuple):
            raise RefusedPickleError("a set is not made of a list")
        budget.spend(operations=len(items))
        return [checked_key(item) for item in items]

    def path(*parts: Any) -> str:
        texts = [part for part in parts if type(part) is str and len(part) < 4096]
        if len(texts) != len(parts):
            raise RefusedPickleError("a path is not made of text")
        budget.spend(num_bytes=sum(map(len, texts)))
        return "/".join(texts).replace("//", "/")

    def scalar(dtype: Any, content: Any) -> Any:
        if isinstance(content, memoryview):
            budget.spend(num_bytes=len(content))
        return _numpy_scalar(dtype, content)

    found = {
        ("collections", "OrderedDict"): StandIn(dict, 0, 0),
        ("collections", "defaultdict"): StandIn(_default_dict, 0, 1),
        ("_codecs", "encode"): StandIn(encode, 2, 2),
        ("torch", "device"): StandIn(_device, 1, 2),
        ("torch", "Size"): StandIn(_shape, 1, 1),
        ("numpy", "dtype"): StandIn(_numpy_type, 1, 3),
    }
    for module in _BUILTINS:
        found[module, "set"] = StandIn(lambda items: set(members(items)), 1, 1)
        found[module, "bytes"] = StandIn(lambda: memoryview(b""), 0, 0)
        found[module, "bytearray"] = StandIn(byte_array, 0, 2)
        found[module, "frozenset"] = StandIn(lambda items: frozenset(members(items)), 1, 1)
    for module in ("pathlib", "pathlib._local"):
        found |= dict.fromkeys(((module, name) for name in _PATHS), StandIn(path, 0, 64))
    for module in _NUMPY_MODULES:
        found[f"{module}.multiarray", "scalar"] = StandIn(scalar, 2, 2)
        found[f"{module}.multiarray", "_reconstruct"] = StandIn(_numpy_array, 3, 3)
        found[f"{module}.numeric", "_frombuffer"] = StandIn(_numpy_buffer, 4, 4)
    return found


def build_numpy(instance: NumpyType | NumpyArray, state: Any) -> None:
    """Give a numpy type its byte order, or an array its numbers."""
    if type(state) is not tuple or len(state) < 2:
        raise RefusedPickleError("the state of a numpy value is not one")
    if isinstance(instance, NumpyType):
        if state[1] not in ("<", ">", "|"):
            raise RefusedPickleError("a numpy type has an unknown byte order")
        instance.byte_order = "<" if state[1] == "|" else state[1]
        return
    if len(state) != 5:
        raise RefusedPickleError("the state of a numpy array is not one")
    _, shape, dtype, is_fortran, content = state
    instance.values = _numbers(content, dtype, shape, "F" if is_fortran is True else "C")


def plain_numbers(value: Any) -> Any:
    """Return a short array or tensor of numbers as a list, or as a number; else the value."""
    if isinstance(value, NumpyArray) and value.values is not None and value.values.size <= 16:
        return value.values.tolist()
    if isinstance(value, Tensor) and value.numel() <= 16:
        # Numbers that a float32 stands for, not its exact ones.
        return _each_rounded(value.tolist()) if value.is_floating_point() else value.tolist()
    return value


def _each_rounded(values: Any) -> Any:
    return [_each_rounded(v) for v in values] if isinstance(values, list) else rounded(values)


def rounded(value: float) -> float:
    """Return the decimal number that a float32 stands for."""
    return float(f"{value:.7g}")


def is_number(value: Any) -> bool:
    """Tell whether a value is a number that settings can have: finite, no truth value."""
    return type(value) in (int, float) and abs(value) <= _MAX_NUMBER


def _default_dict(factory: Any = None) -> dict[Any, Any]:
    if factory is not None and not isinstance(factory, Global):
        raise RefusedPickleError("a dict's default is not the name of a type")
    return {}


def _device(kind: Any, index: Any = None) -> str:
    if type(kind) is not str or type(index) not in (int, type(None)):
        raise RefusedPickleError("a device is not one")
    return kind if index is None else f"{kind}:{index}"


def _shape(sizes: Any) -> tuple[int, ...]:
    if type(sizes) is not tuple or len(sizes) > 64 or not all(type(n) is int for n in sizes):
        raise RefusedPickleError("a shape is not one")
    return sizes


def _numpy_type(code: Any, *unused: Any) -> NumpyType:
    is_known = type(code) is str and (code in _SCALAR_FORMATS or _is_text(code))
    if not is_known:
        raise RefusedPickleError(f"it holds numpy values of type {shown(code)}")
    return NumpyType(code)


def _is_text(code: str) -> bool:
    return len(code) <= 6 and code[:1] in ("U", "S") and code[1:].isascii() and code[1:].isdigit()


def _numpy_scalar(dtype: Any, content: Any) -> Any:
    if not isinstance(dtype, NumpyType) or not isinstance(content, memoryview):
        raise RefusedPickleError("a numpy number is not one")
    if _is_text(dtype.code):
        (text,) = _numbers(content, dtype, (1,), "C").tolist()
        return text
    pattern = dtype.byte_order + _SCALAR_FORMATS[dtype.code]
    if len(content) != struct.calcsize(pattern):
        raise RefusedPickleError(f"a numpy {dtype.code} has {len(content)} bytes")
    return struct.unpack(pattern, content)[0]


def _numpy_array(cls: Any, *unused: Any) -> NumpyArray:
    if cls != Global("numpy", "ndarray"):
        raise RefusedPickleError(f"it makes an array of {shown(cls)}")
    return NumpyArray()


def _numpy_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> NumpyArray:
    """Make an array as protocol 5 writes it."""
    return NumpyArray(_numbers(content, dtype, shape, "F" if order == "F" else "C"))


def _numbers(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """Look at bytes of the file as an array; nothing is copied."""
    shape = _shape(shape)
    if not isinstance(dtype, NumpyType) or not isinstance(content, memoryview):
        raise RefusedPickleError("a numpy array is not one of numbers")
    try:
        values = np.frombuffer(content, dtype.byte_order + dtype.code)
        return values.reshape(shape, order=order)
    except (ValueError, UnicodeDecodeError):
        raise RefusedPickleError(f"a numpy array of shape {shape} has other bytes") from None
