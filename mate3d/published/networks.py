"""The networks of a published snapshot: constructor arguments, plain attributes, state dict."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mate3d.errors import UserError
from mate3d.published.snapshot_reader import InertObject, read_snapshot

NETWORK_NAMES = ("G", "G_ema", "D", "D_semantic")
_MAX_MODULES = 20_000
_MAX_DEPTH = 32
# What torch keeps in a module's attributes beside the author's own.
_TORCH_ATTRIBUTES = re.compile(r"_parameters|_buffers|_modules|training|.*_hooks?(_.*)?")
_PLAIN_TYPES = (str, int, float, bool, type(None), list, tuple, dict)


@dataclass
class PublishedNetwork:
    """One network of a snapshot.

    Args:
        class_name: Name of its class.
        init_args: Positional constructor arguments.
        init_kwargs: Named constructor arguments.
        attributes: Plain values that it carries, e.g. `rendering_kwargs`; those of its parts under
            dotted names, e.g. `superresolution.input_resolution`.
        state: Parameters and persistent buffers by name, in the order of torch's state dicts.
        class_names: Class of every part, by its dotted name with a final dot; "" is the whole.
    """

    class_name: str
    init_args: tuple[Any, ...]
    init_kwargs: dict[str, Any]
    attributes: dict[str, Any]
    state: dict[str, Tensor]
    class_names: dict[str, str] = field(default_factory=dict)


def read_networks(path: str | Path) -> dict[str, PublishedNetwork]:
    """Return those of G, G_ema, D and D_semantic that a snapshot holds; nothing is executed.

    Raises:
        UserError: If the file is no snapshot, is damaged, holds anything that is not allowed, or
            holds no network.
    """
    top = read_snapshot(path)
    found = {name: top[name] for name in NETWORK_NAMES if isinstance(top.get(name), InertObject)}
    if not found:
        raise UserError(
            f"snapshot {path} holds none of the networks {', '.join(NETWORK_NAMES)};"
            f" it holds {_some([name for name in top if isinstance(name, str)])}"
        )
    networks = {}
    for name, module in found.items():
        try:
            networks[name] = _read_network(module)
        except _NotANetworkError as error:
            raise UserError(f"snapshot {path}: {name} is not a network: {error}") from None
    _check_total_size(path, networks)
    return networks


class _NotANetworkError(ValueError):
    """The object lacks what modules have; the message says what."""


def _read_network(module: InertObject) -> PublishedNetwork:
    state: dict[str, Tensor] = {}
    attributes: dict[str, Any] = {}
    class_names: dict[str, str] = {}
    for index, (prefix, part) in enumerate(_walk(module, "", 0)):
        if index >= _MAX_MODULES or prefix in class_names:
            raise _NotANetworkError("its parts repeat without end")
        class_names[prefix] = part.name
        state.update((prefix + name, tensor) for name, tensor in _own_tensors(part))
        attributes.update(
            (prefix + name, value)
            for name, value in part.attributes.items()
            if isinstance(value, _PLAIN_TYPES) and not _TORCH_ATTRIBUTES.fullmatch(name)
        )
    init_args = attributes.get("_init_args", ())
    init_kwargs = attributes.get("_init_kwargs", {})
    if not isinstance(init_args, tuple) or not isinstance(init_kwargs, dict):
        raise _NotANetworkError("its constructor arguments are neither tuple nor dict")
    return PublishedNetwork(module.name, init_args, init_kwargs, attributes, state, class_names)


def _walk(module: InertObject, prefix: str, depth: int) -> Iterator[tuple[str, InertObject]]:
    """Yield every part with its dotted prefix, in the order of torch's state dicts."""
    if depth > _MAX_DEPTH:
        raise _NotANetworkError(f"its parts are nested deeper than {_MAX_DEPTH}")
    yield prefix, module
    for name, child in _dict_of(module, "_modules").items():
        if isinstance(child, InertObject):
            yield from _walk(child, f"{prefix}{name}.", depth + 1)
        elif child is not None:
            raise _NotANetworkError(f"{prefix}{name} is a {type(child).__name__}")


def _own_tensors(module: InertObject) -> Iterator[tuple[str, Tensor]]:
    hidden = module.attributes.get("_non_persistent_buffers_set", ())
    for group in ("_parameters", "_buffers"):
        for name, tensor in _dict_of(module, group).items():
            if tensor is None or name in hidden:
                continue
            if not isinstance(tensor, Tensor):
                raise _NotANetworkError(f"{module.name}.{name} is a {type(tensor).__name__}")
            yield name, tensor


def _dict_of(module: InertObject, attribute: str) -> dict[str, Any]:
    value = module.attributes.get(attribute)
    if type(value) is not dict or not all(type(name) is str for name in value):
        raise _NotANetworkError(f"{module.name} has no {attribute}")
    return value


def _check_total_size(path: str | Path, networks: dict[str, PublishedNetwork]) -> None:
    """Refuse files whose tensors, shared between many names, unfold to far more than their size."""
    tensors = [tensor for network in networks.values() for tensor in network.state.values()]
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if total > 2 * Path(path).stat().st_size + 2**20:
        raise UserError(f"snapshot {path} unfolds to {total} bytes, far more than its size")


def _some(names: list[str]) -> str:
    shown = [ascii(name)[:40] for name in names[:6]]
    return ", ".join(shown) + (", ..." if len(names) > 6 else "") if names else "no names"
