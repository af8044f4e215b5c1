"""Initial stages that train only the generator, before adversarial training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from training.optimization.adam import make_adam, optimizing
from training.optimization.schedules import schedule_values
from training.settings import TrainingSettings
from training.step_inputs import BatchParts, Networks, Occasion, StepContext, join_metrics
from training.steps import sphere_initialization_step


class StageRunner(Protocol):
    """Runs the steps of a stage; can be saved between any two steps."""

    steps_done: int

    @property
    def num_steps(self) -> int:
        """Total number of steps."""

    def step(self) -> Mapping[str, Tensor | float]:
        """Update the generator once and return values to log, by short name."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict`."""


@dataclass(frozen=True)
class InitialStage:
    """A stage, as seen by the loop.

    Args:
        name: Values are logged as `Loss/<name>/...`.
        batch_size: Images counted per step.
        runner: Runs the steps.
    """

    name: str
    batch_size: int
    runner: StageRunner

    @property
    def images_left(self) -> int:
        """Images until the end of the stage."""
        return (self.runner.num_steps - self.runner.steps_done) * self.batch_size


class SphereInitialization:
    """Train all SDFs to a sphere, so that later terms start from a closed surface.

    Args:
        networks: Only the generator is trained.
        cameras: Camera labels of the dataset, [N, 25], on the training device.
        parts: Division of a step's batch.
    """

    def __init__(
        self,
        networks: Networks,
        num_steps: int,
        cameras: Tensor,
        settings: TrainingSettings,
        parts: BatchParts,
    ):
        self.num_steps, self.steps_done = num_steps, 0
        self._networks, self._cameras = networks, cameras
        self._settings, self._parts = settings, parts
        self._optimizer = make_adam(
            networks.generator.parameters(), settings.optimizer.generator_lr, settings.optimizer
        )

    def step(self) -> dict[str, Tensor]:
        """Update the generator once."""
        generator, settings, parts = self._networks.generator, self._settings, self._parts
        # PyTorch's initial seed is the run's seed until a rollback changes it.
        key = (torch.initial_seed(), 0, self.steps_done, Occasion.SPHERE)
        logged = []
        for group in self._optimizer.param_groups:
            # At a constant rate, the surface keeps trembling by a quarter of the radius.
            group["lr"] = settings.optimizer.generator_lr * (1 - self.steps_done / self.num_steps)
        with optimizing(generator, self._optimizer):
            for part in range(parts.accumulation):
                latents, random = parts.latents(key, part, generator.config.z_dim, self._cameras)
                context = StepContext(
                    schedule_values(settings.schedule, 0),
                    random=random,
                    share=1 / parts.accumulation,
                )
                logged.append(
                    sphere_initialization_step(self._networks, latents, settings.loss, context)
                )
        self.steps_done += 1
        metrics = join_metrics(logged)
        return {"initloss": metrics["Loss/G_init/initloss"], "beta": metrics["Loss/beta"]}

    def state_dict(self) -> dict[str, Any]:
        """Return optimizer and counter."""
        return {"steps_done": self.steps_done, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict`."""
        self.steps_done = state["steps_done"]
        self._optimizer.load_state_dict(state["optimizer"])
