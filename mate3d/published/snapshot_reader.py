"""Read a published snapshot as data: tensors and inert objects; nothing in it is executed.

Snapshots are pickles that contain Python source and name classes to import (spec 9.2). An unpickler
calls what a file names. Here a name stands for a class of inert objects or for one of the functions
below, and any other name is refused.
"""

import io
import pickle
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mate3d.errors import UserError
from mate3d.published.plain_values import shown

# Modules whose classes may be named; their instances become data.
_CLASS_MODULES = frozenset(
    f"{package}.{name}"
    for package, names in (
        ("training", "triplane networks_stylegan2 superresolution dual_discriminator augment"),
        ("training.volumetric_rendering", "renderer ray_marcher ray_sampler math_utils"),
        ("torch.nn.modules", "activation container linear upsampling"),
    )
    for name in names.split()
)
_CLASS_NAME = re.compile(r"[A-Za-z]\w{0,99}", re.ASCII)
_NUMPY_TYPES = re.compile(r"f[248]|[iu][1248]|b1|U\d{1,5}")


class RefusedPickleError(ValueError):
    """The file holds something that is not allowed; the message says what."""


class InertObject:
    """An object of a snapshot as plain data; its type has the name of the class in the file."""

    attributes: Mapping[str, Any] = MappingProxyType({})

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.attributes = dict(state)


def _object_with_source(meta: Mapping[str, Any]) -> InertObject:
    # The source in `module_src` is ignored.
    made = type(meta["class_name"], (InertObject,), {})()
    made.__setstate__(meta["state"])
    return made


def _read_storage(stream: bytes) -> Tensor:  # [numel]
    # Loaded to the CPU, whatever device it was stored on.
    storage = torch.load(io.BytesIO(stream), map_location="cpu", weights_only=True)
    return torch.empty(0, dtype=storage.dtype).set_(storage)


def _view_storage(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


class _NumpyType:
    """A dtype of plain numbers or short texts."""

    def __init__(self, code: str, *_: Any):
        if not _NUMPY_TYPES.fullmatch(code):
            raise RefusedPickleError(f"it holds numpy values of type {shown(code)}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _NumpyArray:
    """An array, which is there once its state is set."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, content = state
        self.values = _numbers(content, kind, shape, "F" if is_fortran else "C")


def _numbers(content: bytes, kind: _NumpyType, shape: Any = (1,), order: str = "C") -> np.ndarray:
    return np.frombuffer(content, kind.dtype).reshape(shape, order=order)


# What the names in a file stand for, apart from classes.
_STAND_INS: dict[str, Callable[..., Any]] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _object_with_source,
    "torch._utils._rebuild_tensor_v2": _view_storage,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch._tensor._rebuild_from_type_v2": lambda function, cls, arguments, _: function(*arguments),
    "torch.storage._load_from_bytes": _read_storage,
    "torch.device": lambda *parts: ":".join(map(str, parts)),
    "torch.Size": tuple,
    "collections.OrderedDict": dict,
    "collections.defaultdict": lambda *_: {},
    "dnnlib.util.EasyDict": dict,
    # Protocol 2's form of bytes.
    "_codecs.encode": lambda text, _: text.encode("latin1"),
    "numpy.dtype": _NumpyType,
}
# Protocol 2 has the first name.
for _module in ("__builtin__", "builtins"):
    _STAND_INS |= {
        f"{_module}.{each.__name__}": each for each in (set, frozenset, bytes, bytearray)
    }
for _module in ("pathlib", "pathlib._local"):
    for _name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
        _STAND_INS[f"{_module}.{_name}"] = lambda *parts: "/".join(parts).replace("//", "/")
for _module in ("numpy.core", "numpy._core"):
    _STAND_INS |= {
        f"{_module}.multiarray.scalar": lambda kind, content: _numbers(content, kind).item(),
        f"{_module}.multiarray._reconstruct": lambda *_: _NumpyArray(),
        # Protocol 5's form of arrays.
        f"{_module}.numeric._frombuffer": _numbers,
    }
# Types that attributes may hold; they become their names.
_TYPES = frozenset(
    f"{module}.{name}"
    for module, names in (
        ("torch", "float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8 bool Tensor"),
        ("numpy", "float16 float32 float64 int8 int16 int32 int64 uint8 bool_ ndarray"),
        ("builtins", "bool int float str list dict tuple"),
        ("__builtin__", "bool int float str list dict tuple"),
    )
    for name in names.split()
)


class _InertUnpickler(pickle.Unpickler):
    """Takes the names in a file for stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        found = f"{module}.{name}"
        if module in _CLASS_MODULES and _CLASS_NAME.fullmatch(name):
            return type(name, (InertObject,), {})
        if found in _TYPES:
            return found
        if found not in _STAND_INS:
            raise RefusedPickleError(f"it refers to {shown(found)}")
        stand_in = _STAND_INS[found]
        # A new object for each name, because a file can set its attributes.
        return dict if stand_in is dict else partial(stand_in)


def read_snapshot(path: str | Path) -> dict[str, Any]:
    """Return the top-level dict of a snapshot: tensors on the CPU, everything else inert.

    Parameters become plain tensors, all kinds of dicts plain dicts, paths and devices texts, NumPy
    numbers Python numbers.

    Raises:
        UserError: If the file is missing, damaged or not a snapshot, or refers to something that
            snapshots do not contain; the message names it.
    """
    path = Path(path)
    try:
        if not path.is_file():
            kind = "is not a file" if path.exists() else "not found"
            raise UserError(f"snapshot {path} {kind}; give the .pkl file")
        with path.open("rb") as file:
            start = file.read(9)
            if start[:1] != pickle.PROTO:
                raise RefusedPickleError(f"it is not a pickle; it starts with {ascii(start)}")
            file.seek(0)
            top = _InertUnpickler(file).load()
        if type(top) is not dict:
            raise RefusedPickleError(f"it holds {type(top).__name__} instead of a dict of networks")
        return top
    except UserError:
        raise
    except RefusedPickleError as error:
        raise UserError(f"snapshot {path} is refused: {error}") from None
    except OSError as error:
        raise UserError(f"snapshot {path} cannot be read: {error.strerror}") from None
    # Damaged files can raise anything.
    except Exception as error:
        reason = f"it is damaged ({type(error).__name__})"
        raise UserError(f"snapshot {path} is refused: {reason}") from None
