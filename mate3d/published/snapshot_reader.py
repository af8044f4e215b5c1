"""Read a published snapshot as data: tensors and inert objects; nothing in it is executed.

Snapshots are pickles that contain Python source and name classes to import (spec 9.2). Here only
the globals listed below are accepted, with stand-ins of our own.
"""

import mmap
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mate3d.errors import UserError
from mate3d.published.pickle_machine import (
    Budget,
    Global,
    InertUnpickler,
    RefusedPickleError,
    shown,
)
from mate3d.published.plain_values import PLAIN_FUNCTIONS, TYPE_NAMES, NumpyArray, NumpyType
from mate3d.published.storages import make_tensor, read_storage

# A snapshot of four networks needs about 110,000.
_MAX_OPERATIONS = 1_000_000

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


@dataclass(eq=False)
class InertObject:
    """An object of a snapshot as plain data; `name` is that of its class."""

    name: str
    attributes: dict[str, Any] = field(default_factory=dict, repr=False)


def _attributes(budget: Budget, state: Any) -> dict[str, Any]:
    # Many objects may share one dict.
    budget.spend(operations=len(state) if type(state) is dict else 0)
    if type(state) is not dict or not all(type(name) is str for name in state):
        raise RefusedPickleError("an object's state is not a dict of names")
    return state


def _persistent_object(budget: Budget, meta: Any) -> InertObject:
    # The source in `module_src` is ignored.
    if type(meta) is not dict or meta.get("type") != "class":
        raise RefusedPickleError("an object with its source is malformed")
    name = meta.get("class_name")
    if type(name) is not str or not _CLASS_NAME.fullmatch(name):
        raise RefusedPickleError(f"invalid class name {shown(name)}")
    return InertObject(name, _attributes(budget, meta.get("state")))


def _typed_tensor(budget: Budget, function: Any, cls: Any, arguments: Any, state: Any) -> Tensor:
    """Return a tensor without its attributes."""
    if function != Global("torch._utils._rebuild_tensor_v2"):
        raise RefusedPickleError(f"it creates a tensor by calling {shown(function)}")
    return make_tensor(budget, *arguments)


_FUNCTIONS = PLAIN_FUNCTIONS | {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
    "torch._utils._rebuild_tensor_v2": make_tensor,
    "torch._utils._rebuild_parameter": lambda budget, tensor, needs_grad, hooks: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda budget, tensor, grad, hooks, state: tensor,
    "torch._tensor._rebuild_from_type_v2": _typed_tensor,
    "torch.storage._load_from_bytes": read_storage,
}


class _SnapshotUnpickler(InertUnpickler):
    """Replaces the globals of spec 9.2 with inert stand-ins."""

    def find_class(self, module: str, name: str) -> Global:
        is_class = module in _CLASS_MODULES and _CLASS_NAME.fullmatch(name)
        found = Global(f"{module}.{name}")
        if not is_class and found not in _FUNCTIONS and found not in TYPE_NAMES:
            raise RefusedPickleError(f"it refers to {shown(found)}")
        return found

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Global or function not in _FUNCTIONS:
            raise RefusedPickleError(f"it calls {shown(function)}")
        self.append(_FUNCTIONS[function](self.budget, *arguments))

    def _new_object(self) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        module, _, name = cls.rpartition(".") if type(cls) is Global else ("", "", "")
        is_dict = (module, name) == ("dnnlib.util", "EasyDict")
        if not (is_dict or module in _CLASS_MODULES) or len(arguments) > 0:
            raise RefusedPickleError(f"it creates an instance of {shown(cls)}")
        self.append({} if is_dict else InertObject(name))

    def _build(self) -> None:
        state, instance = self.stack.pop(), self.stack[-1]
        if isinstance(instance, InertObject):
            instance.attributes = _attributes(self.budget, state)
        elif isinstance(instance, NumpyType | NumpyArray):
            instance.set_state(state)
        else:
            raise RefusedPickleError(f"it sets the state of {shown(instance)}")

    dispatch = InertUnpickler.dispatch | {
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _new_object,
        pickle.BUILD[0]: _build,
    }


def read_snapshot(path: str | Path) -> dict[str, Any]:
    """Return the top-level dict of a snapshot: tensors on the CPU, everything else inert.

    Parameters become plain tensors, all kinds of dicts plain dicts, byte strings views of the file,
    NumPy numbers Python numbers; for other values see `plain_values`.

    Raises:
        UserError: If the file is missing, damaged or not a snapshot, or refers to a global that
            snapshots do not contain; the message names it.
    """
    path = Path(path)
    try:
        if not path.is_file():
            kind = "is not a file" if path.exists() else "not found"
            raise UserError(f"snapshot {path} {kind}; give the .pkl file")
        size = path.stat().st_size
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    except OSError as error:
        raise UserError(f"snapshot {path} cannot be read: {error.strerror}") from None
    try:
        if bytes(data[:1]) != pickle.PROTO:
            raise RefusedPickleError(f"it is not a pickle; it starts with {ascii(bytes(data[:9]))}")
        top = _SnapshotUnpickler(data, Budget(_MAX_OPERATIONS, num_bytes=size + 2**20)).load()
        if type(top) is not dict:
            raise RefusedPickleError(f"it holds {type(top).__name__} instead of a dict of networks")
        return top
    except RefusedPickleError as error:
        raise UserError(f"snapshot {path} is refused: {error}") from None
    except MemoryError:
        raise UserError(f"snapshot {path} does not fit in memory") from None
