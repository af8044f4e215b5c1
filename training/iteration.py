"""One adversarial iteration: which step trains which network when, and in what parts."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_utils.distributed import all_reduce_sum
from training.losses.terms import LossSettings, Metrics
from training.optimization.adam import optimizing
from training.optimization.precision import TrainingPrecision
from training.optimization.schedules import ScheduleValues
from training.parts import BatchParts, Occasion, join_metrics
from training.passes import Latents, RealBatch, StepContext
from training.settings import TrainingSettings
from training.state import TrainingState
from training.steps import (
    density_step,
    discriminator_step,
    generator_step,
    r1_step,
    sample_density_points,
    semantic_discriminator_step,
    semantic_r1_step,
)


@dataclass(frozen=True)
class IterationInputs:
    """What an iteration needs besides the state.

    Args:
        real: Portraits of this process, shared by all steps.
        cameras: The data set's, [N, 25], on the training device.
        schedule: Values of this moment.
        precision: Of the networks.
        augment: See `StepContext.augment`.
        parts: How the batch is divided.
    """

    real: RealBatch
    cameras: Tensor
    schedule: ScheduleValues
    precision: TrainingPrecision
    parts: BatchParts
    augment: Callable[..., tuple[Tensor | None, ...]] | None = None


# Steps that render for a discriminator, which is when the average of w moves (spec 4).
_MOVING_AVERAGE = (Occasion.DISCRIMINATOR, Occasion.SEMANTIC_DISCRIMINATOR)


@dataclass(frozen=True)
class _Part:
    latents: Latents
    real: RealBatch
    context: StepContext


def adversarial_iteration(
    state: TrainingState, inputs: IterationInputs, settings: TrainingSettings
) -> dict[str, Tensor]:
    """Train all networks once: main steps always, lazy regularisers at their intervals (spec 8.1).

    Args:
        state: Networks, optimisers and the iteration's number.
        inputs: Real portraits, schedules, division into parts.
        settings: Weights and intervals.

    Returns:
        The values of this process's samples by name.
    """
    networks, loss = state.networks, settings.loss
    generator_interval = settings.optimizer.generator_reg_interval
    discriminator_interval = settings.optimizer.discriminator_reg_interval
    is_r1_due = state.iteration % discriminator_interval == 0

    def train(name: str, occasion: Occasion, step: Callable[[_Part], Metrics]) -> None:
        metrics.update(_train_in_parts(name, occasion, step, state, inputs, settings))

    def density(part: _Part) -> Metrics:
        points = sample_density_points(
            networks.generator.config.box_size, loss, part.context.random
        )
        return density_step(
            networks, part.latents, points, loss, part.context, interval=generator_interval
        )

    def r1(part: _Part) -> Metrics:
        return r1_step(networks, part.real, loss, part.context, interval=discriminator_interval)

    def semantic_r1(part: _Part) -> Metrics:
        return semantic_r1_step(
            networks, part.real, loss, part.context, interval=discriminator_interval
        )

    metrics: dict[str, Tensor] = {}
    train(
        "generator",
        Occasion.GENERATOR,
        lambda part: generator_step(networks, part.latents, loss, part.context),
    )
    if loss.density_smoothness > 0 and state.iteration % generator_interval == 0:
        train("generator", Occasion.DENSITY, density)
    train(
        "discriminator",
        Occasion.DISCRIMINATOR,
        lambda part: discriminator_step(networks, part.latents, part.real, loss, part.context),
    )
    if loss.r1_gamma > 0 and is_r1_due:
        train("discriminator", Occasion.R1, r1)
    if not loss.has_semantic_discriminator:
        return metrics
    train(
        "semantic_discriminator",
        Occasion.SEMANTIC_DISCRIMINATOR,
        lambda part: semantic_discriminator_step(
            networks, part.latents, part.real, loss, part.context
        ),
    )
    if loss.semantic_r1_gamma > 0 and is_r1_due:
        train("semantic_discriminator", Occasion.SEMANTIC_R1, semantic_r1)
    return metrics


def _train_in_parts(
    name: str,
    occasion: Occasion,
    step: Callable[[_Part], Metrics],
    state: TrainingState,
    inputs: IterationInputs,
    settings: TrainingSettings,
) -> dict[str, Tensor]:
    """Add up the gradients of all parts, then update one network."""
    parts = inputs.parts
    logged = []
    average = _StyleAverage(state.networks.generator.mapping.w_avg, parts)
    with optimizing(
        getattr(state.networks, name),
        state.optimizers[name],
        state.scaler,
        max_gradient_norm=settings.optimizer.max_gradient_norm,
    ):
        for number in range(parts.accumulation):
            average.begin_part()
            logged.append(step(_make_part(occasion, number, state, inputs, settings)))
            average.end_part()
    if occasion in _MOVING_AVERAGE:
        average.finish()
    return join_metrics(logged)


def _make_part(
    occasion: Occasion,
    number: int,
    state: TrainingState,
    inputs: IterationInputs,
    settings: TrainingSettings,
) -> _Part:
    parts = inputs.parts
    key = (settings.loop.seed, state.num_rollbacks, state.iteration, occasion)
    z_dim = state.networks.generator.config.z_dim
    latents, random = parts.latents(key, number, z_dim, inputs.cameras)
    context = StepContext(
        inputs.schedule,
        random=random,
        precision=inputs.precision,
        scaler=state.scaler,
        camera_noise=_camera_noise(inputs.cameras, settings.loss),
        augment=inputs.augment,
        share=1 / parts.accumulation,
    )
    return _Part(latents, parts.real(inputs.real, number), context)


def _camera_noise(
    cameras: Tensor,  # [N, 25]
    loss: LossSettings,
) -> Tensor | None:  # [25]
    if loss.camera_noise == 0:
        return None
    return loss.camera_noise * cameras.std(dim=0, correction=0)


class _StyleAverage:
    """Lets the average of w move once a step, by the mean over the whole batch.

    A step moves it by the mean over its part. The movement is linear in that mean, so the mean of
    what the parts come to, each from the same start, is what the whole batch would come to.
    """

    def __init__(
        self,
        w_avg: Tensor,  # [w_dim]
        parts: BatchParts,
    ):
        self._w_avg, self._num_units = w_avg, parts.num_units
        self._start = w_avg.clone()
        self._total = torch.zeros_like(w_avg)

    def begin_part(self) -> None:
        self._w_avg.copy_(self._start)

    def end_part(self) -> None:
        self._total += self._w_avg

    def finish(self) -> None:
        if self._num_units > 1:
            self._w_avg.copy_(all_reduce_sum(self._total) / self._num_units)
