"""The networks of a published snapshot: constructor arguments, attributes, state dict."""

import re
from collections.abc import ItemsView
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mate3d.errors import UserError
from mate3d.published.snapshot_reader import InertObject, read_snapshot

NETWORK_NAMES = ("G", "G_ema", "D", "D_semantic")
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
    """

    class_name: str
    init_kwargs: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)

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


def _collect(network: PublishedNetwork, module: InertObject, prefix: str = "") -> None:
    """Collect a module's tensors and attributes, then its children's, in torch's order."""
    where = f"{network.class_name}: {prefix}"
    hidden = module.attributes.get("_non_persistent_buffers_set", ())
    for group in ("_parameters", "_buffers"):
        for name, tensor in _named(module.attributes.get(group)):
            if isinstance(tensor, Tensor):
                place = network.attributes if name in hidden else network.state
                place[prefix + name] = tensor
            elif tensor is not None:
                raise UserError(f"{where}{name} is a {type(tensor).__name__}")
    for name, value in _named(module.attributes):
        is_own = not _TORCH_ATTRIBUTES.fullmatch(name)
        if is_own and isinstance(value, (*_PLAIN_TYPES, Tensor)):
            network.attributes[prefix + name] = value
    for name, child in _named(module.attributes.get("_modules")):
        if isinstance(child, InertObject):
            _collect(network, child, f"{prefix}{name}.")
        elif child is not None:
            raise UserError(f"{where}{name} is a {type(child).__name__}")


def _named(items: Any) -> ItemsView[str, Any]:
    if not isinstance(items, dict):
        raise UserError("a part of the snapshot lacks the attributes of a torch module")
    return items.items()


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
    networks = {name: _read_network(module) for name, module in found.items()}
    other = {key: type(top.get(key)).__name__ for key in keys if key not in found}
    return PublishedSnapshot(networks, other)


def read_networks(path: str | Path) -> dict[str, PublishedNetwork]:
    """Return the networks of a snapshot; see `read_published`."""
    return read_published(path).networks


def _read_network(module: InertObject) -> PublishedNetwork:
    network = PublishedNetwork(type(module).__name__)
    _collect(network, module)
    arguments = network.attributes.get("_init_kwargs")
    network.init_kwargs = arguments if isinstance(arguments, dict) else {}
    return network
