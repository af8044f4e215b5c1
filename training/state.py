"""Everything that a training run needs to go on exactly where it stopped."""

import json
import logging
import os
import random as python_random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mate3d.atomic import atomic_files
from mate3d.checkpoints.storage import load_document, save_document
from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.options import config_to_dict
from training.stages import InitialStage
from training.step_inputs import Networks

STATE_FILE = "training_state.pt"
_FORMAT_VERSION = 2

# Fields of `TrainingState` that are plain values.
_COUNTERS = (
    "data",
    "images_seen",
    "stage_images",
    "iteration",
    "seconds",
    "num_rollbacks",
    "lr_factor",
)

_logger = logging.getLogger(__name__)


class HasStateDict(Protocol):
    """Anything small that a run changes, such as an adaptive probability."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""


@dataclass
class TrainingState:
    """The moving parts of a run.

    Args:
        networks: What is trained.
        average: Moving average of the generator; what checkpoints hold.
        optimizers: By name.
        scaler: Of losses in float16; does nothing otherwise.
        stages: What comes before the adversarial training, in order.
        extra: Whatever else goes on where it stopped, by name.
        data: `BatchStream.state_dict()`; empty before the first real batch.
        images_seen: Images that training has used, those of the stages included.
        stage_images: Those of the stages.
        iteration: Number of iterations done.
        seconds: Time spent training, over all resumed parts.
        num_rollbacks: How often the run has gone back to a saved state; random numbers depend on
            it, so that training takes another way.
        lr_factor: What rollbacks have multiplied the learning rates by, see `set_lr_factor`.
    """

    networks: Networks
    average: Generator
    optimizers: dict[str, torch.optim.Optimizer]
    scaler: torch.amp.GradScaler = field(
        default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False)
    )
    stages: tuple[InitialStage, ...] = ()
    extra: dict[str, HasStateDict] = field(default_factory=dict)
    data: dict[str, int] = field(default_factory=dict)
    images_seen: int = 0
    stage_images: int = 0
    iteration: int = 0
    seconds: float = 0.0
    num_rollbacks: int = 0
    lr_factor: float = 1.0

    @property
    def device(self) -> torch.device:
        """Where training runs."""
        return self.average.mapping.w_avg.device

    @property
    def adversarial_images(self) -> int:
        """Images that the adversarial training has used; schedules count these."""
        return self.images_seen - self.stage_images

    def modules(self) -> dict[str, nn.Module]:
        """Return all networks by name."""
        return {
            "generator": self.networks.generator,
            "discriminator": self.networks.discriminator,
            "semantic_discriminator": self.networks.semantic_discriminator,
            "average": self.average,
        }


def previous_path(path: Path) -> Path:
    """Return where `save_state` keeps the state before the newest one."""
    return path.with_stem(f"{path.stem}.previous")


def has_state(path: Path) -> bool:
    """Tell whether there is something to go on with, which `load_state` may still refuse."""
    return path.is_file() or previous_path(path).is_file()


def save_state(path: Path, state: TrainingState, *, with_previous: bool = True) -> None:
    """Write the state; an interrupted write leaves the files as they were.

    Args:
        path: The file there becomes `previous_path(path)`.
        state: What to save.
        with_previous: False leaves the previous state alone and replaces the newest one.

    Raises:
        UserError: If the file cannot be written, or a number in the state is not finite.
    """
    name = find_non_finite(state)
    if name is not None:
        raise UserError(f"{path} is not written: {name} is not finite; the last state stays")
    document = {
        "format_version": _FORMAT_VERSION,
        "model": _model_description(state),
        "modules": {name: module.state_dict() for name, module in state.modules().items()},
        "optimizers": {name: item.state_dict() for name, item in state.optimizers.items()},
        "stages": {stage.name: stage.runner.state_dict() for stage in state.stages},
        "extra": {name: item.state_dict() for name, item in state.extra.items()},
        "scaler": state.scaler.state_dict(),
        "random": _random_state(),
        **{name: getattr(state, name) for name in _COUNTERS},
    }
    with atomic_files(path.parent) as temporary:
        save_document(temporary / path.name, document)
        if with_previous and path.is_file():
            _keep(path, temporary)


def load_state(path: Path, state: TrainingState) -> None:
    """Load a file of `save_state` into a state built from the same configuration.

    If it cannot be read, the previous one is taken, with a warning. Global random numbers are
    restored too, so this comes after everything that draws. Learning rates and decays are those
    of the configuration, times the factor of earlier rollbacks.

    Raises:
        UserError: If neither can be read, or the file is of another model.
    """
    path, document = _read(path)
    if document.get("format_version") != _FORMAT_VERSION:
        raise UserError(f"cannot resume: {path} was written by another version of this program")
    if document["model"] != _model_description(state):
        raise UserError(f"cannot resume: {path} belongs to a model with another configuration")
    if set(document["stages"]) != {stage.name for stage in state.stages}:
        stages = ", ".join(document["stages"]) or "none"
        raise UserError(f"cannot resume: {path} was trained with other stages ({stages})")
    for name, module in state.modules().items():
        module.load_state_dict(document["modules"][name])
    for name, optimizer in state.optimizers.items():
        _load_optimizer(optimizer, document["optimizers"][name])
    for stage in state.stages:
        stage.runner.load_state_dict(document["stages"][stage.name])
    _load_extra(state.extra, document["extra"], path)
    if document["scaler"] and state.scaler.is_enabled():
        state.scaler.load_state_dict(document["scaler"])
    for name in _COUNTERS:
        setattr(state, name, document[name])
    set_lr_factor(state, state.lr_factor)
    _restore_random(document["random"])


def set_lr_factor(state: TrainingState, factor: float) -> None:
    """Set all learning rates of the adversarial training to the configured ones times a factor."""
    state.lr_factor = factor
    for optimizer in state.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = _initial_lr(group) * factor


@torch.no_grad()
def find_non_finite(state: TrainingState) -> str | None:
    """Return the name of a weight, or of a value of an optimiser, that is not finite."""
    for name, module in state.modules().items():
        found = _first_non_finite(module.state_dict())
        if found is not None:
            return f"{name}.{found}"
    for name, optimizer in state.optimizers.items():
        for index, values in optimizer.state_dict()["state"].items():
            found = _first_non_finite(values)
            if found is not None:
                return f"{found} of weight {index} in the optimiser of {name}"
    return None


def _first_non_finite(values: Mapping[str, Any]) -> str | None:
    tensors = {
        name: value
        for name, value in values.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0
    }
    for device in {tensor.device for tensor in tensors.values()}:
        names = [name for name, tensor in tensors.items() if tensor.device == device]
        # One transfer for all.
        flags = torch.stack([tensors[name].isfinite().all() for name in names]).tolist()
        if not all(flags):
            return names[flags.index(False)]
    return None


def _initial_lr(group: dict[str, Any]) -> float:
    """Return a group's configured learning rate, which its first call notes down."""
    return group.setdefault("initial_lr", group["lr"])


def _load_optimizer(optimizer: torch.optim.Optimizer, document: dict[str, Any]) -> None:
    """Load moments; rates and decays stay those of the configuration."""
    configured = []
    for group in optimizer.param_groups:
        _initial_lr(group)
        configured.append({name: value for name, value in group.items() if name != "params"})
    optimizer.load_state_dict(document)
    for group, values in zip(optimizer.param_groups, configured, strict=True):
        group.update(values)


def _load_extra(
    extra: Mapping[str, HasStateDict], document: Mapping[str, dict[str, Any]], path: Path
) -> None:
    for name, item in extra.items():
        if name in document:
            item.load_state_dict(document[name])
        else:
            _logger.warning("%s holds no %s, which starts anew", path, name)
    for name in sorted(set(document) - set(extra)):
        _logger.warning("%s of %s is not used any more", name, path)


def _random_state() -> dict[str, Any]:
    name, keys, position, has_gauss, cached_gaussian = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": python_random.getstate(),
        "numpy": (name, keys.tolist(), position, has_gauss, cached_gaussian),
    }


def _restore_random(document: Mapping[str, Any]) -> None:
    torch.set_rng_state(document["torch"])
    if len(document["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(document["cuda"])
    python_random.setstate(document["python"])
    np.random.set_state(document["numpy"])


def _model_description(state: TrainingState) -> str:
    networks = state.networks
    configs = (
        networks.generator.config,
        networks.discriminator.config,
        networks.semantic_discriminator.config,
    )
    return json.dumps([config_to_dict(config) for config in configs], sort_keys=True)


def _keep(path: Path, temporary: Path) -> None:
    """Let the newest state become the previous one when the files of `temporary` get in place."""
    previous = previous_path(path)
    try:
        os.link(path, temporary / previous.name)
    except OSError:
        # Without links there is a moment without newest state, when `load_state` takes this one.
        os.replace(path, previous)


def _read(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the newest readable state and where it lies."""
    candidates = [candidate for candidate in (path, previous_path(path)) if candidate.is_file()]
    if not candidates:
        raise UserError(f"nothing to resume: {path} not found")
    reasons = []
    for candidate in candidates:
        try:
            document = load_document(candidate)
        except UserError as error:
            reasons.append(str(error))
            continue
        if candidate != path:
            reason = reasons[0] if reasons else f"{path} not found"
            _logger.warning("%s; going on from %s", reason, candidate)
        return candidate, document
    raise UserError(f"nothing to resume: {'; '.join(reasons)}")
