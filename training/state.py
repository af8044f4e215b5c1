"""Everything that a training run needs to resume exactly where it stopped."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.stateful import Stateful

from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.options import config_to_dict
from training.run_folder.state_file import (
    find_non_finite,
    read_state,
    restore_random,
    write_state,
)
from training.stages import InitialStage
from training.step_inputs import Networks

# Fields of `TrainingState` that are plain values.
_COUNTERS = (
    *("data", "images_seen", "stage_images", "iteration", "seconds"),
    *("num_rollbacks", "lr_factor"),
)

_logger = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """Everything that changes during a run.

    Args:
        networks: The networks that are trained.
        average: Moving average of the generator, which checkpoints store.
        optimizers: Optimizers by name.
        scaler: Loss scaler for float16; disabled otherwise.
        stages: Stages before the adversarial training, in order.
        extra: Other parts with a state, by name.
        data: `BatchStream.state_dict()`; empty before the first real batch.
        images_seen: Images used so far, including those of the stages.
        stage_images: Images used by the stages.
        iteration: Number of finished iterations of the adversarial training.
        seconds: Time spent training, summed over resumed runs.
        num_rollbacks: How often the run has returned to a saved state. Random numbers depend on
            it, so training takes a different path each time.
        lr_factor: Factor that rollbacks have applied to the learning rates; see `set_lr_factor`.
    """

    networks: Networks
    average: Generator
    optimizers: dict[str, torch.optim.Optimizer]
    scaler: torch.amp.GradScaler = field(
        default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False)
    )
    stages: tuple[InitialStage, ...] = ()
    extra: dict[str, Stateful] = field(default_factory=dict)
    data: dict[str, int] = field(default_factory=dict)
    images_seen: int = 0
    stage_images: int = 0
    iteration: int = 0
    seconds: float = 0.0
    num_rollbacks: int = 0
    lr_factor: float = 1.0

    @property
    def device(self) -> torch.device:
        """The device that trains."""
        return self.average.mapping.w_avg.device

    @property
    def adversarial_images(self) -> int:
        """Images used by the adversarial training; schedules count these."""
        return self.images_seen - self.stage_images

    def modules(self) -> dict[str, nn.Module]:
        """Return all networks by name."""
        return {**vars(self.networks), "average": self.average}


def save_state(path: Path, state: TrainingState, *, with_previous: bool = True) -> None:
    """Write the state and all global random numbers; see `write_state`."""
    model = _model_description(state)
    write_state(path, _make_document(state), model, with_previous=with_previous)


def load_state(path: Path, state: TrainingState) -> None:
    """Load a file of `save_state` into a state built from the same configuration.

    Global random numbers are restored too, so call this after everything that draws random numbers.
    Learning rates and decays come from the configuration; rates keep the factor of earlier
    rollbacks.

    Raises:
        UserError: See `read_state`; also if the stages are different.
    """
    document = read_state(path, _model_description(state))
    if set(document["stages"]) != {stage.name for stage in state.stages}:
        stages = ", ".join(document["stages"]) or "none"
        raise UserError(f"cannot resume: {path} was trained with other stages ({stages})")
    for name, module in state.modules().items():
        module.load_state_dict(document["modules"][name])
    for name, optimizer in state.optimizers.items():
        _load_optimizer(optimizer, document["optimizers"][name])
    for stage in state.stages:
        stage.runner.load_state_dict(document["stages"][stage.name])
    extra, saved = state.extra, document["extra"]
    for name in sorted({*extra, *saved}):
        if name not in saved:
            _logger.warning("%s has no %s, which starts from scratch", path, name)
        elif name not in extra:
            _logger.warning("%s of %s is no longer used", name, path)
        else:
            extra[name].load_state_dict(saved[name])
    if document["scaler"] and state.scaler.is_enabled():
        state.scaler.load_state_dict(document["scaler"])
    for name in _COUNTERS:
        setattr(state, name, document[name])
    set_lr_factor(state, state.lr_factor)
    restore_random(document)


def set_lr_factor(state: TrainingState, factor: float) -> None:
    """Multiply the configured learning rates of the adversarial training by a factor."""
    state.lr_factor = factor
    for optimizer in state.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = _initial_lr(group) * factor


def find_damage(state: TrainingState) -> str | None:
    """Return the name of a weight, or of an optimizer's value, that is not finite."""
    return find_non_finite(_make_document(state))


def _make_document(state: TrainingState) -> dict[str, Any]:
    return {
        "modules": {name: module.state_dict() for name, module in state.modules().items()},
        "optimizers": {name: item.state_dict() for name, item in state.optimizers.items()},
        "stages": {stage.name: stage.runner.state_dict() for stage in state.stages},
        "extra": {name: item.state_dict() for name, item in state.extra.items()},
        "scaler": state.scaler.state_dict(),
        **{name: getattr(state, name) for name in _COUNTERS},
    }


def _initial_lr(group: dict[str, Any]) -> float:
    """Return a group's configured learning rate; the first call records it."""
    return group.setdefault("initial_lr", group["lr"])


def _load_optimizer(optimizer: torch.optim.Optimizer, document: dict[str, Any]) -> None:
    """Load moments, but keep the configured rates and decays."""
    configured = []
    for group in optimizer.param_groups:
        _initial_lr(group)
        configured.append({name: value for name, value in group.items() if name != "params"})
    optimizer.load_state_dict(document)
    for group, values in zip(optimizer.param_groups, configured, strict=True):
        group.update(values)


def _model_description(state: TrainingState) -> list[dict[str, Any]]:
    return [config_to_dict(network.config) for network in vars(state.networks).values()]
