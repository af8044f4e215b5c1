"""Plain values of Python, NumPy and torch in snapshots.

Each becomes the nearest inert value: a path or device a text, a shape a tuple, every kind of dict a
dict. Names of number types stay names.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from mate3d.published.pickle_machine import Budget, RefusedPickleError, checked_keys, shown

_BUILTINS = ("builtins", "__builtin__")  # the latter in protocol 2
_MAX_NUMBER = 1e9
_MAX_DIMENSIONS = 16
_NUMPY_TYPES = re.compile(r"f[248]|[iu][1248]|b1|[US]\d{1,5}")
# Names that attributes may hold; nothing is created from them.
TYPE_NAMES = frozenset(
    f"{module}.{name}"
    for modules, names in (
        (("torch", "numpy"), "float16 float32 float64 int8 int16 int32 int64 uint8 bfloat16 bool"),
        (("torch", "numpy"), "half float double int long bool_"),
        (_BUILTINS, "bool int long float str unicode bytes list dict tuple set frozenset"),
    )
    for module in modules
    for name in names.split()
) | {"torch.Tensor", "torch.nn.parameter.Parameter", "numpy.ndarray", "dnnlib.util.EasyDict"}


@dataclass(eq=False)
class NumpyType:
    """A dtype of plain numbers or short texts."""

    dtype: np.dtype

    def set_state(self, state: Any) -> None:
        """Set the byte order."""
        self.dtype = self.dtype.newbyteorder(state[1])


@dataclass(eq=False)
class NumpyArray:
    """An array of plain numbers; None until its state is set."""

    values: np.ndarray | None = field(default=None, repr=False)

    def set_state(self, state: Any) -> None:
        """Set the numbers."""
        _, shape, dtype, is_fortran, content = state
        self.values = _numbers(content, dtype, shape, "F" if is_fortran is True else "C")


def plain_numbers(value: Any) -> Any:
    """Return a short array or tensor of numbers as a list or number, else the value itself."""
    found = value.values if isinstance(value, NumpyArray) else value
    if isinstance(found, Tensor) and found.numel() <= 16:
        # Rounded, because 0.1 as float32 is not exactly 0.1.
        found = found.double().numpy().round(6)
    is_short = isinstance(found, np.ndarray) and found.size <= 16 and found.dtype.kind in "biuf"
    return found.tolist() if is_short else value


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number that settings can have; booleans are not."""
    return type(value) in (int, float) and abs(value) <= _MAX_NUMBER


def checked_counts(values: Any) -> tuple[int, ...]:
    """Check that values may be a shape or strides, and return them."""
    is_shape = type(values) is tuple and len(values) <= _MAX_DIMENSIONS
    if not is_shape or not all(type(n) is int and 0 <= n < 2**62 for n in values):
        raise RefusedPickleError("a shape is invalid")
    return values


def _encoded(budget: Budget, text: Any, encoding: Any) -> memoryview:
    """Make bytes from protocol 2's form of them."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise RefusedPickleError("it encodes something other than bytes")
    budget.spend(num_bytes=len(text))
    return memoryview(text.encode("latin1", errors="replace"))


def _bytes(budget: Budget, content: Any = b"", encoding: Any = None) -> memoryview:
    return memoryview(content) if encoding is None else _encoded(budget, content, encoding)


def _members(budget: Budget, items: Any) -> list[Any]:
    if type(items) is not list:
        raise RefusedPickleError("a set is not made from a list")
    budget.spend(operations=len(items))
    return checked_keys(items)


def _path(budget: Budget, *parts: Any) -> str:
    budget.spend(operations=len(parts), num_bytes=sum(map(len, parts)))
    return "/".join(parts).replace("//", "/")


def _device(budget: Budget, kind: Any, index: Any = None) -> str:
    if type(kind) is not str or type(index) not in (int, type(None)):
        raise RefusedPickleError("a device is invalid")
    return kind[:80] if index is None else f"{kind[:80]}:{index}"


def _numpy_type(budget: Budget, code: Any, align: Any = 0, copy: Any = 0) -> NumpyType:
    if type(code) is not str or not _NUMPY_TYPES.fullmatch(code):
        raise RefusedPickleError(f"it holds numpy values of type {shown(code)}")
    return NumpyType(np.dtype(code))


def _numpy_scalar(budget: Budget, dtype: Any, content: Any) -> Any:
    budget.spend(num_bytes=len(content))
    return _numbers(content, dtype, (), "C").item()


def _numpy_buffer(budget: Budget, content: Any, dtype: Any, shape: Any, order: Any) -> NumpyArray:
    """Make an array from protocol 5's form of it."""
    return NumpyArray(_numbers(content, dtype, shape, "F" if order == "F" else "C"))


def _numbers(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """View bytes of the file as an array; nothing is copied."""
    if not isinstance(dtype, NumpyType) or not isinstance(content, memoryview):
        raise RefusedPickleError("a numpy array does not hold numbers")
    return np.frombuffer(content, dtype.dtype).reshape(checked_counts(shape), order=order)


# Stand-ins for the functions that a file names.
PLAIN_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda budget: {},
    "collections.defaultdict": lambda budget, factory=None: {},
    "_codecs.encode": _encoded,
    "torch.device": _device,
    "torch.Size": lambda budget, sizes: checked_counts(sizes),
    "numpy.dtype": _numpy_type,
}
for _module in _BUILTINS:
    PLAIN_FUNCTIONS |= {
        f"{_module}.set": lambda budget, items: set(_members(budget, items)),
        f"{_module}.frozenset": lambda budget, items: frozenset(_members(budget, items)),
        f"{_module}.bytes": lambda budget: memoryview(b""),
        f"{_module}.bytearray": _bytes,
    }
for _module in ("pathlib", "pathlib._local"):
    for _name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
        PLAIN_FUNCTIONS[f"{_module}.{_name}"] = _path
for _module in ("numpy.core", "numpy._core"):
    PLAIN_FUNCTIONS |= {
        f"{_module}.multiarray.scalar": _numpy_scalar,
        f"{_module}.multiarray._reconstruct": lambda budget, cls, shape, code: NumpyArray(),
        f"{_module}.numeric._frombuffer": _numpy_buffer,
    }
