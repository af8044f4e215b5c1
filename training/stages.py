"""Initial stages that train only the generator, before adversarial training."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.checkpoint.stateful import Stateful

from mate3d.errors import UserError
from mate3d.generator import RenderOutput
from torch_utils.batch_random import BatchRandom
from training.losses.terms import LossSum, Metrics
from training.optimization.adam import make_adam, optimizing
from training.optimization.schedules import schedule_values
from training.settings import TrainingSettings
from training.step_inputs import (
    BatchParts,
    Latents,
    Networks,
    Occasion,
    RealBatch,
    StepContext,
    draw_latents,
    join_metrics,
)
from training.steps import generator_step, sphere_initialization_step
from training.views import Views, real_views

_logger = logging.getLogger(__name__)


class StageRunner(Stateful, Protocol):
    """Runs the steps of a stage; can be saved between any two steps."""

    num_steps: int
    steps_done: int

    def step(self) -> Mapping[str, Tensor | float]:
        """Update the generator once and return values to log, by short name."""


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


class _GeneratorStage:
    """Trains the generator alone, with parts of a batch one after the other.

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
        generator, parts, logged = self._networks.generator, self._parts, []
        for group in self._optimizer.param_groups:
            # At a constant rate, the surface keeps trembling by a quarter of the radius.
            share_left = 1 - self.steps_done / self.num_steps
            group["lr"] = self._settings.optimizer.generator_lr * share_left
        with optimizing(generator, self._optimizer):
            for part in range(parts.accumulation):
                latents, random = parts.latents(
                    self._key(), part, generator.config.z_dim, self._cameras
                )
                context = StepContext(
                    schedule_values(self._settings.schedule, 0),
                    random=random,
                    share=1 / parts.accumulation,
                )
                logged.append(self._take(latents, context))
        self.steps_done += 1
        metrics = join_metrics(logged)
        return {name.split("/", 1)[1].removeprefix("G_init/"): metrics[name] for name in metrics}

    def state_dict(self) -> dict[str, Any]:
        """Return optimizer and counter."""
        return {"steps_done": self.steps_done, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict`."""
        self.steps_done = state["steps_done"]
        self._optimizer.load_state_dict(state["optimizer"])


class SphereInitialization(_GeneratorStage):
    """Trains all SDFs to a sphere, so that later terms start from a closed surface."""

    def _key(self) -> tuple[int, ...]:
        # PyTorch's initial seed is the run's seed until a rollback changes it.
        return (torch.initial_seed(), 0, self.steps_done, Occasion.SPHERE)

    def _take(self, latents: Latents, context: StepContext) -> Metrics:
        return sphere_initialization_step(self._networks, latents, self._settings.loss, context)


class Overfit(_GeneratorStage):
    """Reconstructs one batch, to show that data, cameras, masks and networks fit together.

    A step is the adversarial one with squared errors in place of the discriminators. Each portrait
    gets a latent of its own. Heads and cameras are the first ones of the sample grids.
    """

    # Of squared errors, against geometry terms made for logistic losses near 1.
    _WEIGHT = 10.0
    _MIN_PSNR = 28.0

    def __init__(self, *arguments: Any, read: Callable[[Sequence[int]], RealBatch]):
        """Take the arguments of any stage, and what reads portraits by position in the dataset."""
        super().__init__(*arguments)
        self._read = read
        # Positions are drawn in place of cameras; float32 cannot count beyond 2^24.
        place = {"device": self._cameras.device, "dtype": torch.float64}
        self._cameras = torch.arange(len(self._cameras), **place).unsqueeze(1)
        for group in self._optimizer.param_groups:
            group["betas"] = (0.9, 0.99)

    def positions(self, count: int) -> list[int]:
        """Return the dataset positions of the portraits that the first latents reconstruct."""
        random = BatchRandom(self._key(), range(count), self._cameras.device)
        z_dim = self._networks.generator.config.z_dim
        return _positions(draw_latents(z_dim, self._cameras, random))

    def step(self) -> dict[str, Tensor]:
        """Update the generator once.

        Raises:
            UserError: If the last step does not reach 28 dB.
        """
        metrics = super().step()
        if self.steps_done == self.num_steps:
            psnr = float(metrics["psnr"].mean())
            found = f"one batch was reconstructed with {psnr:.1f} dB"
            if psnr < self._MIN_PSNR:
                raise UserError(
                    f"{found}, not {self._MIN_PSNR:g}; compare samples/ with the data, and check "
                    "cameras, rendering.near, rendering.far and model.generator.box_size"
                )
            _logger.info("%s, at least %g", found, self._MIN_PSNR)
        return metrics

    def _key(self) -> tuple[int, ...]:
        return (self._settings.loop.seed, Occasion.GRID)

    def _take(self, latents: Latents, context: StepContext) -> Metrics:
        real = self._read(_positions(latents))
        schedule = replace(context.schedule, blur_sigma=0.0, pose_swap_probability=0.0)
        context = replace(context, schedule=schedule, noise_mode="const", depth_mode="fixed")
        latents = replace(latents, camera=real.camera, other_camera=None)
        background = self._networks.generator.config.rendering.background_class

        def judge(terms: LossSum, output: RenderOutput) -> None:
            has_mask = output.segmentation is not None
            masks = (output.segmentation, output.segmentation_raw) if has_mask else ()
            wanted = vars(real_views(real, context, with_mask=has_mask))
            rendered = vars(Views(output.image, output.image_raw, *masks)) | {"opacity": None}
            if has_mask and background is not None:
                # Else a face may be empty space of its own colour, and the background opaque.
                wanted["opacity"] = -wanted["mask_raw"][:, [background]]
                rendered["opacity"] = 2 * output.opacity - 1
            for name, value in rendered.items():
                if value is not None:
                    errors = (value - wanted[name]).square().flatten(1).mean(dim=1)
                    terms.add(name, self._WEIGHT, lambda errors=errors: errors)
            terms.metrics["Loss/psnr"] = 10 * torch.log10(4 / terms.metrics["Loss/image/loss"])

        return generator_step(self._networks, latents, self._settings.loss, context, judge=judge)


def _positions(latents: Latents) -> list[int]:
    return latents.camera.flatten().long().tolist()
