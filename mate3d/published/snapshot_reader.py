"""Read a published snapshot as data: tensors and inert objects; nothing in it is executed.

Snapshots are pickles that carry Python source and name classes to import (spec 9.2). Here only
the globals listed below have a meaning, and that meaning is ours.
"""

import mmap
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
from mate3d.published.plain_values import (
    TYPE_NAMES,
    NumpyArray,
    NumpyType,
    StandIn,
    build_numpy,
    make_stand_ins,
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
        "training.augment",
        "training.volumetric_rendering.math_utils",
        "torch.nn.modules.activation",
        "torch.nn.modules.container",
        "torch.nn.modules.linear",
        "torch.nn.modules.upsampling",
    )
)
_MAX_CLASS_NAME_LENGTH = 100


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


class _SnapshotRules:
    """The globals of spec 9.2, as inert stand-ins."""

    def __init__(self, budget: Budget):
        self.budget = budget
        self.stand_ins = make_stand_ins(budget) | {
            ("torch_utils.persistence", "_reconstruct_persistent_obj"): StandIn(
                self._persistent_object, 1, 1
            ),
            ("torch._utils", "_rebuild_tensor_v2"): StandIn(self._tensor, 6, 7),
            ("torch._utils", "_rebuild_parameter"): StandIn(self._parameter, 3, 3),
            # Tensors that carry attributes of their own.
            ("torch._utils", "_rebuild_parameter_with_state"): StandIn(self._parameter, 4, 4),
            ("torch._tensor", "_rebuild_from_type_v2"): StandIn(self._typed_tensor, 4, 4),
            ("torch.storage", "_load_from_bytes"): StandIn(self._storage, 1, 1),
        }

    def resolve(self, module: str, name: str) -> Global:
        is_class = module in _CLASS_MODULES and _is_class_name(name)
        key = (module, name)
        if not is_class and key not in self.stand_ins and key not in TYPE_NAMES:
            raise RefusedPickleError(f"it refers to {shown(f'{module[:80]}.{name[:80]}')}")
        return Global(module, name)

    def call(self, function: Global, arguments: tuple[Any, ...]) -> Any:
        stand_in = self.stand_ins.get((function.module, function.name))
        if stand_in is None:
            raise RefusedPickleError(f"it calls {function.module}.{function.name}")
        if not stand_in.least <= len(arguments) <= stand_in.most:
            raise RefusedPickleError(f"it passes {len(arguments)} arguments to {function.name}")
        return stand_in.run(*arguments)

    def new(self, cls: Global) -> Any:
        if cls == Global("dnnlib.util", "EasyDict"):
            return {}
        if cls.module not in _CLASS_MODULES:
            raise RefusedPickleError(f"it makes an instance of {cls.module}.{cls.name}")
        return InertObject(cls.module, cls.name)

    def build(self, instance: Any, state: Any) -> None:
        if isinstance(instance, NumpyType | NumpyArray):
            build_numpy(instance, state)
        elif isinstance(instance, InertObject):
            instance.attributes = self._attributes(state)
        else:
            raise RefusedPickleError(f"it sets the state of {shown(instance)}")

    def load_persistent(self, identifier: Any) -> Any:
        raise RefusedPickleError("it refers to an object outside the file")

    def _persistent_object(self, meta: Any) -> InertObject:
        # The source in `module_src` is not looked at.
        if type(meta) is not dict or meta.get("type") != "class":
            raise RefusedPickleError("an object that carries its source is not described as one")
        name = meta.get("class_name")
        if type(name) is not str or not _is_class_name(name):
            raise RefusedPickleError(f"an object's class is called {shown(name)}")
        return InertObject("", name, self._attributes(meta.get("state")))

    def _attributes(self, state: Any) -> dict[str, Any]:
        if type(state) is not dict:
            raise RefusedPickleError("an object's state is not a dict of names")
        # The same dict may be the state of many objects.
        self.budget.spend(operations=len(state))
        if not all(type(name) is str for name in state):
            raise RefusedPickleError("an object's state is not a dict of names")
        return state

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *unused: Any) -> Any:
        return make_tensor(storage, offset, size, stride, self.budget)

    def _parameter(self, tensor: Any, *unused: Any) -> Any:
        return tensor

    def _typed_tensor(self, function: Any, cls: Any, arguments: Any, state: Any) -> Any:
        if function != Global("torch._utils", "_rebuild_tensor_v2") or type(arguments) is not tuple:
            raise RefusedPickleError(f"it makes a tensor by calling {shown(function)}")
        return self.call(function, arguments)

    def _storage(self, stream: Any) -> Storage:
        if not isinstance(stream, memoryview):
            raise RefusedPickleError("a storage is not a string of bytes")
        return read_storage(stream, self.budget)


def _is_class_name(name: str) -> bool:
    is_short = len(name) <= _MAX_CLASS_NAME_LENGTH
    return is_short and name.isidentifier() and not name.startswith("_")


def read_snapshot(path: str | Path) -> dict[str, Any]:
    """Return the top-level dict of a snapshot: tensors on the CPU, everything else inert.

    Parameters come back as plain tensors, ordered and attribute dicts as plain dicts, byte strings
    as views on the file, numpy numbers as Python's; for other values see `plain_values`.

    Raises:
        UserError: If the file is missing, damaged, no snapshot, or refers to any global that
            snapshots do not consist of; the message names it.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UserError(f"snapshot {path} is {_what_it_is(path)}; give the .pkl file")
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


def _what_it_is(path: Path) -> str:
    if path.is_dir():
        return "a folder, not a file"
    return "no ordinary file" if path.exists() else "not found"


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
