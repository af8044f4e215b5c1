"""The networks of a published snapshot: constructor arguments, attributes, state dict."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mate3d.errors import UserError
from mate3d.published.snapshot_reader import InertObject, read_snapshot

NETWORK_NAMES = ("G", "G_ema", "D", "D_semantic")
# Far more than networks have; a small file could repeat the same parts endlessly.
_MAX_ITEMS = 100_000
_MAX_DEPTH = 32
_MAX_NAME_LENGTH = 100
_MAX_PATH_LENGTH = 300
# Attributes that torch adds to a module's own.
_TORCH_ATTRIBUTES = re.compile(r"_parameters|_buffers|_modules|training|.*_hooks?(_.*)?")
_PLAIN_TYPES = (str, int, float, bool, type(None), list, tuple, dict)


@dataclass
class PublishedNetwork:
    """One network of a snapshot.

    Args:
        attributes: Everything else: plain values such as `rendering_kwargs`, and tensors; those of
            submodules under dotted names, e.g. `superresolution.sr_antialias`.
        state: Parameters and persistent buffers by name, in the order of torch's state dicts.
        classes: Class names of its submodules by dotted name.
    """

    class_name: str
    init_kwargs: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)

    def size(self, name: str, dimension: int) -> int:
        """Return one dimension of a required tensor."""
        tensor = self.state.get(name)
        if tensor is None or tensor.ndim <= dimension or tensor.numel() == 0:
            raise UserError(
                f"{self.class_name} has no tensor {name}, which MaTe3D's and EG3D's networks have"
            )
        return tensor.shape[dimension]

    def count(self, pattern: str) -> int:
        """Return how many tensor names match."""
        return sum(re.fullmatch(pattern, name) is not None for name in self.state)


@dataclass
class PublishedSnapshot:
    """The content of a snapshot.

    Args:
        networks: Those of G, G_ema, D and D_semantic that the snapshot holds.
        other: Type of every other entry by its key, e.g. {"training_set_kwargs": "dict"}.
    """

    networks: dict[str, PublishedNetwork]
    other: dict[str, str]


class _NotANetworkError(ValueError):
    """The object is not a module; the message says why."""


class _Walk:
    """Collects the content of a network; refuses endlessly repeated parts."""

    def __init__(self, network: PublishedNetwork):
        self.network, self.num_items = network, 0

    def visit(self, module: InertObject, prefix: str = "", depth: int = 0) -> None:
        """Collect a module's tensors and attributes, then its children's, in torch's order."""
        if depth > _MAX_DEPTH or len(prefix) > _MAX_PATH_LENGTH:
            raise _NotANetworkError(
                f"its submodules are nested more than {_MAX_DEPTH} deep or have names of more than"
                f" {_MAX_PATH_LENGTH} characters"
            )
        self.network.classes[prefix[:-1]] = module.name
        self._collect_state(module, prefix)
        for name, value in self._named(module.attributes):
            is_own = not _TORCH_ATTRIBUTES.fullmatch(name)
            if is_own and isinstance(value, (*_PLAIN_TYPES, Tensor)):
                self.network.attributes[prefix + name] = value
        for name, child in self._named(module.attributes.get("_modules")):
            if isinstance(child, InertObject):
                self.visit(child, f"{prefix}{name}.", depth + 1)
            elif child is not None:
                raise _NotANetworkError(f"{prefix}{name} is a {type(child).__name__}")

    def _collect_state(self, module: InertObject, prefix: str) -> None:
        hidden = module.attributes.get("_non_persistent_buffers_set", set())
        if type(hidden) is not set:
            raise _NotANetworkError(f"{module.name}._non_persistent_buffers_set is not a set")
        state = self.network.state
        for group in ("_parameters", "_buffers"):
            for name, tensor in self._named(module.attributes.get(group)):
                if tensor is not None and not isinstance(tensor, Tensor):
                    raise _NotANetworkError(f"{prefix}{name} is a {type(tensor).__name__}")
                if prefix + name in state:
                    raise _NotANetworkError(f"it has two tensors named {prefix}{name}")
                if tensor is not None:
                    place = self.network.attributes if name in hidden else state
                    place[prefix + name] = tensor

    def _named(self, items: Any) -> Iterator[tuple[str, Any]]:
        if type(items) is not dict:
            raise _NotANetworkError("a submodule lacks the attributes of a torch module")
        self.num_items += 1 + len(items)
        if self.num_items > _MAX_ITEMS:
            raise _NotANetworkError("its submodules repeat endlessly")
        for name, value in items.items():
            if type(name) is not str or len(name) > _MAX_NAME_LENGTH or not name.isprintable():
                raise _NotANetworkError("a submodule's name is not a short text")
            yield name, value


def read_published(path: str | Path) -> PublishedSnapshot:
    """Read a snapshot's networks; nothing is executed.

    Raises:
        UserError: If the file is not a snapshot, is damaged, or holds something that is not
            allowed or no network.
    """
    top = read_snapshot(path)
    found = {name: top[name] for name in NETWORK_NAMES if isinstance(top.get(name), InertObject)}
    keys = [ascii(key)[1:-1][:40] for key in top if isinstance(key, str)]
    if not found:
        raise UserError(
            f"snapshot {path} contains none of the networks {', '.join(NETWORK_NAMES)};"
            f" it contains {', '.join(keys[:6]) or 'nothing'}"
        )
    networks = {}
    for name, module in found.items():
        try:
            networks[name] = _read_network(module)
        except _NotANetworkError as error:
            raise UserError(f"snapshot {path}: {name} is not a network: {error}") from None
    # Tensors shared by many names could take far more memory than the file's size.
    tensors = [tensor for network in networks.values() for tensor in network.state.values()]
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if total > 2 * Path(path).stat().st_size + 2**20:
        raise UserError(f"snapshot {path} expands to {total} bytes, far more than its size")
    other = {key: type(top.get(key)).__name__ for key in keys if key not in found}
    return PublishedSnapshot(networks, other)


def read_networks(path: str | Path) -> dict[str, PublishedNetwork]:
    """Return the networks of a snapshot; see `read_published`."""
    return read_published(path).networks


def _read_network(module: InertObject) -> PublishedNetwork:
    network = PublishedNetwork(module.name)
    _Walk(network).visit(module)
    network.init_kwargs = network.attributes.get("_init_kwargs", {})
    if not isinstance(network.init_kwargs, dict):
        raise _NotANetworkError("its constructor arguments are not a dict")
    return network
