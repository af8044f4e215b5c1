"""Training of the generator alone that comes before the adversarial training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from training.losses.terms import LossSettings
from training.optimization import OptimizerSettings, make_adam, sanitize_gradients
from training.passes import Latents, Networks, StepContext
from training.steps import sphere_initialization_step


class StageRunner(Protocol):
    """Makes the steps of a stage and can be saved between any two."""

    steps_done: int

    @property
    def num_steps(self) -> int:
        """Steps in all."""

    def step(self) -> Mapping[str, Tensor | float]:
        """Update the generator once and return values to log by short names."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""


@dataclass(frozen=True)
class Stage:
    """A stage as the loop sees it.

    Args:
        name: Values are logged as `Loss/<name>/...`.
        batch_size: Images that a step counts for.
        runner: Makes the steps.
    """

    name: str
    batch_size: int
    runner: StageRunner

    @property
    def images_left(self) -> int:
        """Images until the stage is over."""
        return (self.runner.num_steps - self.runner.steps_done) * self.batch_size


class SphereInitialization:
    """Make all distances those of a sphere, so that later terms start from a closed surface.

    Args:
        networks: The generator is trained.
        num_steps: Length.
        draw_latents: Latents of one step.
        loss: Gives the radius.
        context: Resolution and random numbers.
        optimizer: Gives rate and decays.
    """

    def __init__(
        self,
        networks: Networks,
        num_steps: int,
        draw_latents: Callable[[], Latents],
        loss: LossSettings,
        context: StepContext,
        optimizer: OptimizerSettings,
    ):
        self.num_steps, self.steps_done = num_steps, 0
        self._networks, self._draw_latents = networks, draw_latents
        self._loss, self._context = loss, context
        self._optimizer = make_adam(
            networks.generator.parameters(), optimizer.generator_lr, optimizer
        )

    def step(self) -> dict[str, Tensor]:
        """Update the generator once."""
        self._optimizer.zero_grad(set_to_none=True)
        metrics = sphere_initialization_step(
            self._networks, self._draw_latents(), self._loss, self._context
        )
        sanitize_gradients(self._networks.generator.parameters())
        self._optimizer.step()
        self.steps_done += 1
        return {"initloss": metrics["Loss/G_init/initloss"], "beta": metrics["Loss/beta"]}

    def state_dict(self) -> dict[str, Any]:
        """Return optimiser and counter."""
        return {"steps_done": self.steps_done, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.steps_done = state["steps_done"]
        self._optimizer.load_state_dict(state["optimizer"])
