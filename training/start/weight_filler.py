"""Set a network's tensors from several sources and report the origin of each."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_logger = logging.getLogger(__name__)

_SHOWN_NAMES = 4


class WeightFiller:
    """Sets a network's tensors in place and records the origin of each."""

    def __init__(self, network: nn.Module):
        # These share memory with the network.
        self.targets = network.state_dict()
        self.origins: dict[str, str] = {}

    @torch.no_grad()
    def fill(self, origin: str, tensors: Mapping[str, Tensor]) -> None:
        """Set the tensors that exist here, have the same shape, and are not set yet."""
        for name, tensor in tensors.items():
            target = self.targets.get(name)
            if name in self.origins or target is None or target.shape != tensor.shape:
                continue
            target.copy_(tensor)
            self.origins[name] = origin

    def fill_module(self, origin: str, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        """Set all tensors of a module if all of them fit, else none."""
        named = {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
        targets = self.targets
        if all(n in targets and targets[n].shape == t.shape for n, t in named.items()):
            self.fill(origin, named)

    def keep(self, origin: str, name: str) -> None:
        """Record that a tensor is deliberately unchanged, if it is not set yet."""
        if name in self.targets:
            self.origins.setdefault(name, origin)

    def report(self, label: str, source: Mapping[str, Tensor]) -> None:
        """Log the origin of tensors, those that do not fit, and those with initial values."""
        left = [name for name in self.targets if name not in self.origins]
        unused = [name for name in source if name not in self.targets]
        for origin in dict.fromkeys(self.origins.values()):
            names = [name for name, value in self.origins.items() if value == origin]
            what = f"{len(names)} tensors" if len(names) > 1 else names[0]
            _log_names(f"  {label}: {what} {origin}", names)
        misfits = [
            f"{name} {tuple(source[name].shape)} instead of {tuple(self.targets[name].shape)}"
            for name in left
            if name in source
        ]
        if misfits:
            hidden = len(misfits) - _SHOWN_NAMES
            more = f" and {hidden} more" if hidden > 0 else ""
            shown = "; ".join(misfits[:_SHOWN_NAMES])
            _logger.warning("  %s: not copied, different shapes: %s%s", label, shown, more)
        for names, words in (
            (left, "tensors keep their initial values"),
            (unused, "tensors of the source have no counterpart here"),
        ):
            parts = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
            if names:
                _log_names(f"  {label}: {len(names)} {words} ({parts})", names)


def tensors_below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a module, without its name."""
    start = f"{prefix}."
    return {name[len(start) :]: t for name, t in state.items() if name.startswith(start)}


def _log_names(line: str, names: list[str]) -> None:
    _logger.info(line)
    _logger.debug("    %s", ", ".join(names))
