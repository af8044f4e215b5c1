"""Everything that a training run needs to go on exactly where it stopped."""

import json
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mate3d.atomic import atomic_file
from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.storage import config_to_dict
from training.passes import Networks
from training.stages import Stage

STATE_FILE = "training_state.pt"


@dataclass
class TrainingState:
    """The moving parts of a run.

    Args:
        networks: What is trained.
        average: Moving average of the generator; what checkpoints hold.
        optimizers: By name.
        random: Source of random numbers on the training device.
        scaler: Of losses in float16; does nothing otherwise.
        stages: What comes before the adversarial training, in order.
        data: `BatchStream.state_dict()`; empty before the first real batch.
        images_seen: Images that training has used, those of the stages included.
        stage_images: Those of the stages.
        iteration: Number of iterations done.
        seconds: Time spent training, over all resumed parts.
    """

    networks: Networks
    average: Generator
    optimizers: dict[str, torch.optim.Optimizer]
    random: torch.Generator
    scaler: torch.amp.GradScaler = field(
        default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False)
    )
    stages: tuple[Stage, ...] = ()
    data: dict[str, int] = field(default_factory=dict)
    images_seen: int = 0
    stage_images: int = 0
    iteration: int = 0
    seconds: float = 0.0

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


def save_state(path: Path, state: TrainingState) -> None:
    """Write the state; an interrupted write leaves the previous file as it was."""
    document = {
        "model": _model_description(state),
        "modules": {name: module.state_dict() for name, module in state.modules().items()},
        "optimizers": {name: item.state_dict() for name, item in state.optimizers.items()},
        "stages": {stage.name: stage.runner.state_dict() for stage in state.stages},
        "scaler": state.scaler.state_dict(),
        "random": state.random.get_state(),
        "torch_random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "data": state.data,
        "images_seen": state.images_seen,
        "stage_images": state.stage_images,
        "iteration": state.iteration,
        "seconds": state.seconds,
    }
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        torch.save(document, file)
        file.flush()
        os.fsync(file.fileno())


def load_state(path: Path, state: TrainingState) -> None:
    """Load a file of `save_state` into a state built from the same configuration.

    PyTorch's own random numbers are restored too, so this comes after everything that draws.

    Raises:
        UserError: If the file is missing, damaged, or of another model.
    """
    document = _read(path)
    if document["model"] != _model_description(state):
        raise UserError(f"cannot resume: {path} belongs to a model with another configuration")
    if set(document["stages"]) != {stage.name for stage in state.stages}:
        stages = ", ".join(document["stages"]) or "none"
        raise UserError(f"cannot resume: {path} was trained with other stages ({stages})")
    for name, module in state.modules().items():
        module.load_state_dict(document["modules"][name])
    for name, optimizer in state.optimizers.items():
        optimizer.load_state_dict(document["optimizers"][name])
    for stage in state.stages:
        stage.runner.load_state_dict(document["stages"][stage.name])
    if document.get("scaler") and state.scaler.is_enabled():
        state.scaler.load_state_dict(document["scaler"])
    state.data = document["data"]
    state.images_seen = document["images_seen"]
    state.stage_images = document["stage_images"]
    state.iteration = document["iteration"]
    state.seconds = document["seconds"]
    state.random.set_state(document["random"])
    torch.set_rng_state(document["torch_random"])
    if len(document["cuda_random"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(document["cuda_random"])


def _model_description(state: TrainingState) -> str:
    networks = state.networks
    configs = (
        networks.generator.config,
        networks.discriminator.config,
        networks.semantic_discriminator.config,
    )
    return json.dumps([config_to_dict(config) for config in configs], sort_keys=True)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"nothing to resume: {path} not found")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"training state {path} cannot be read: {reason}") from None
