"""Read a published snapshot as data: tensors and inert objects; nothing in it is executed.

Snapshots are pickles that carry Python source and name classes to import (spec 9.2). Here only
the globals listed below have a meaning, and that meaning is ours.
"""

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mate3d.errors import UserError
from mate3d.published.pickle_machine import (
    Budget,
    Global,
    PickleMachine,
    RefusedPickleError,
    shown,
)
from mate3d.published.storages import Storage, make_tensor, read_storage

# A snapshot of four networks takes about 110 thousand.
_MAX_OPERATIONS = 2_000_000

# Modules whose classes may be named; their instances are data here.
_CLASS_MODULES = frozenset(
    (
        "training.triplane",
        "training.volumetric_rendering.renderer",
        "training.volumetric_rendering.ray_marcher",
        "training.volumetric_rendering.ray_sampler",
        "training.networks_stylegan2",
        "training.superresolution",
        "training.dual_discriminator",
        "torch.nn.modules.activation",
        "torch.nn.modules.container",
    )
)
_NUMPY_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
_FUNCTIONS = frozenset(
    {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch.storage", "_load_from_bytes"),
        ("collections", "OrderedDict"),
        ("dnnlib.util", "EasyDict"),
        ("builtins", "set"),
        ("__builtin__", "set"),  # protocol 2
        ("_codecs", "encode"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
    }
    | {(core, name) for core in _NUMPY_CORES for name in ("scalar", "_reconstruct")}
)
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


@dataclass(eq=False)
class InertObject:
    """An object of a snapshot as plain data.

    Args:
        module: Module that its class is said to come from; "" for one that carries its source.
        name: Name of its class.
        attributes: What the file says its attributes are.
    """

    module: str
    name: str
    attributes: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(eq=False)
class _NumpyType:
    """A dtype of plain numbers: its code and, once known, its byte order."""

    code: str
    byte_order: str = "<"


class _SnapshotRules:
    """The globals of spec 9.2, as inert stand-ins."""

    def __init__(self, budget: Budget):
        self.budget = budget
        self.functions = {
            "_reconstruct_persistent_obj": self._persistent_object,
            "_rebuild_tensor_v2": self._tensor,
            "_rebuild_parameter": self._parameter,
            "_load_from_bytes": self._storage,
            "OrderedDict": self._dict,
            "set": self._set,
            "encode": self._encode,
            "dtype": self._numpy_type,
            "scalar": self._numpy_scalar,
            "_reconstruct": self._numpy_array,
        }

    def resolve(self, module: str, name: str) -> Global:
        is_class = module in _CLASS_MODULES and name.isidentifier() and not name.startswith("_")
        if not is_class and (module, name) not in _FUNCTIONS:
            raise RefusedPickleError(f"it refers to {shown(f'{module}.{name}')}")
        return Global(module, name)

    def call(self, function: Global, arguments: tuple[Any, ...]) -> Any:
        is_function = (function.module, function.name) in _FUNCTIONS
        stand_in = self.functions.get(function.name) if is_function else None
        if stand_in is None:
            raise RefusedPickleError(f"it calls {function.module}.{function.name}")
        return stand_in(*_checked_count(function, arguments))

    def new(self, cls: Global) -> Any:
        if cls == Global("dnnlib.util", "EasyDict"):
            return {}
        if cls.module not in _CLASS_MODULES:
            raise RefusedPickleError(f"it makes an instance of {cls.module}.{cls.name}")
        return InertObject(cls.module, cls.name)

    def build(self, instance: Any, state: Any) -> None:
        if isinstance(instance, _NumpyType):
            instance.byte_order = _byte_order(state)
        elif isinstance(instance, InertObject) and instance.module == "numpy":
            instance.attributes["state"] = state
        elif isinstance(instance, InertObject):
            instance.attributes = _checked_attributes(state)
        else:
            raise RefusedPickleError(f"it sets the state of {shown(instance)}")

    def load_persistent(self, identifier: Any) -> Any:
        raise RefusedPickleError("it refers to an object outside the file")

    def _persistent_object(self, meta: Any) -> InertObject:
        # The source in `module_src` is not looked at.
        if type(meta) is not dict or meta.get("type") != "class":
            raise RefusedPickleError("an object that carries its source is not described as one")
        name = meta.get("class_name")
        if type(name) is not str or not name.isidentifier():
            raise RefusedPickleError(f"an object's class is called {shown(name)}")
        return InertObject("", name, _checked_attributes(meta.get("state")))

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *unused: Any) -> Any:
        return make_tensor(storage, offset, size, stride, self.budget)

    def _parameter(self, tensor: Any, *unused: Any) -> Any:
        return tensor

    def _storage(self, stream: Any) -> Storage:
        if not isinstance(stream, memoryview):
            raise RefusedPickleError("a storage is not a string of bytes")
        return read_storage(stream, self.budget)

    def _dict(self) -> dict[Any, Any]:
        return {}

    def _set(self, items: Any) -> set[Any]:
        if type(items) is not list or not all(type(item) in (str, int) for item in items):
            raise RefusedPickleError("a set holds something other than names and numbers")
        self.budget.spend(operations=len(items))
        return set(items)

    def _encode(self, text: Any, encoding: Any) -> memoryview:
        # How protocol 2 writes bytes.
        if type(text) is not str or encoding != "latin1":
            raise RefusedPickleError("it encodes something other than bytes")
        self.budget.spend(num_bytes=len(text))
        return memoryview(text.encode("latin1", errors="replace"))

    def _numpy_type(self, code: Any, *unused: Any) -> _NumpyType:
        if type(code) is not str or code not in _SCALAR_FORMATS:
            raise RefusedPickleError(f"it holds numpy values of type {shown(code)}")
        return _NumpyType(code)

    def _numpy_scalar(self, dtype: Any, content: Any) -> Any:
        if not isinstance(dtype, _NumpyType) or not isinstance(content, memoryview):
            raise RefusedPickleError("a numpy number is not one")
        pattern = dtype.byte_order + _SCALAR_FORMATS[dtype.code]
        if len(content) != struct.calcsize(pattern):
            raise RefusedPickleError(f"a numpy {dtype.code} has {len(content)} bytes")
        return struct.unpack(pattern, content)[0]

    def _numpy_array(self, cls: Any, *unused: Any) -> InertObject:
        if cls != Global("numpy", "ndarray"):
            raise RefusedPickleError(f"it makes an array of {shown(cls)}")
        return InertObject("numpy", "ndarray")


_ARGUMENT_COUNTS = {
    "_reconstruct_persistent_obj": (1, 1),
    "_rebuild_tensor_v2": (6, 7),
    "_rebuild_parameter": (3, 3),
    "_load_from_bytes": (1, 1),
    "OrderedDict": (0, 0),
    "set": (1, 1),
    "encode": (2, 2),
    "dtype": (1, 3),
    "scalar": (2, 2),
    "_reconstruct": (3, 3),
}


def _checked_count(function: Global, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    least, most = _ARGUMENT_COUNTS[function.name]
    if not least <= len(arguments) <= most:
        raise RefusedPickleError(f"it passes {len(arguments)} arguments to {function.name}")
    return arguments


def _checked_attributes(state: Any) -> dict[str, Any]:
    if type(state) is not dict or not all(type(name) is str for name in state):
        raise RefusedPickleError("an object's state is not a dict of names")
    return state


def _byte_order(state: Any) -> str:
    if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|"):
        raise RefusedPickleError("a numpy type has an unknown byte order")
    return "<" if state[1] == "|" else state[1]


def read_snapshot(path: str | Path) -> dict[str, Any]:
    """Return the top-level dict of a snapshot: tensors on the CPU, everything else inert.

    Parameters come back as plain tensors, ordered and attribute dicts as plain dicts, byte strings
    as views on the file, numpy numbers as Python's.

    Raises:
        UserError: If the file is missing, damaged, no snapshot, or refers to any global that
            snapshots do not consist of; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        kind = "a folder, not a file" if path.is_dir() else "not found"
        raise UserError(f"snapshot {path} is {kind}; give the .pkl file")
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    except OSError as error:
        raise UserError(f"snapshot {path} cannot be read: {error.strerror}") from None
    try:
        return _read_top(data, Budget(_MAX_OPERATIONS, num_bytes=size + 2**20))
    except RefusedPickleError as error:
        raise UserError(f"snapshot {path} is refused: {error}") from None
    except MemoryError:
        raise UserError(f"snapshot {path} does not fit into memory") from None


def _read_top(data: memoryview, budget: Budget) -> dict[str, Any]:
    if bytes(data[:1]) != b"\x80":
        raise RefusedPickleError(f"it is no pickle ({_guess_format(bytes(data[:16]))})")
    top = PickleMachine(data, _SnapshotRules(budget), budget).load()
    if type(top) is not dict:
        raise RefusedPickleError(f"it holds {type(top).__name__} instead of a dict of networks")
    return top


def _guess_format(head: bytes) -> str:
    if not head:
        return "it is empty"
    for start, name in ((b"PK", "a zip archive"), (b"\x89PNG", "a PNG image")):
        if head.startswith(start):
            return name
    return "safetensors" if head[8:9] == b"{" else "it starts with other bytes"
