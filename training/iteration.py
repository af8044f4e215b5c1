"""One adversarial iteration: its steps, the network each trains, and gradient accumulation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_utils.distributed import all_reduce_sum
from training import steps
from training.losses.terms import Metrics
from training.optimization.adam import optimizing
from training.optimization.precision import TrainingPrecision
from training.optimization.schedules import ScheduleValues
from training.settings import TrainingSettings
from training.state import TrainingState
from training.step_inputs import BatchParts, Occasion, RealBatch, StepContext, join_metrics


@dataclass(frozen=True)
class TrainingStep:
    """A step of the iteration.

    Args:
        network: Name of the trained network.
        occasion: Key of the step's random numbers.
        function: Computes gradients from networks, inputs, losses and context.
        inputs: "latents", "real" or both.
        weights: Loss settings that must all be non-zero for the step to run.
        interval: Optimizer setting with a lazy step's interval, in iterations.
        moves_average: Whether the running average of w is updated, when fakes are made (spec 4).
    """

    network: str
    occasion: Occasion
    function: Callable[..., Metrics]
    inputs: tuple[str, ...]
    weights: tuple[str, ...] = ()
    interval: str | None = None
    moves_average: bool = False

    def interval_in(self, settings: TrainingSettings) -> int:
        """Return the number of iterations between such steps."""
        return 1 if self.interval is None else getattr(settings.optimizer, self.interval)

    def is_due(self, iteration: int, settings: TrainingSettings) -> bool:
        """Return whether an iteration includes the step."""
        has_weight = all(getattr(settings.loss, name) > 0 for name in self.weights)
        return has_weight and iteration % self.interval_in(settings) == 0


# In order: main steps always, lazy regularisers at their intervals (spec 8.1).
STEPS = (
    TrainingStep("generator", Occasion.GENERATOR, steps.generator_step, ("latents",)),
    TrainingStep(
        "generator",
        Occasion.DENSITY,
        steps.density_step,
        ("latents",),
        weights=("density_smoothness",),
        interval="generator_reg_interval",
    ),
    TrainingStep(
        "discriminator",
        Occasion.DISCRIMINATOR,
        steps.discriminator_step,
        ("latents", "real"),
        moves_average=True,
    ),
    TrainingStep(
        "discriminator",
        Occasion.R1,
        steps.r1_step,
        ("real",),
        weights=("r1_gamma",),
        interval="discriminator_reg_interval",
    ),
    TrainingStep(
        "semantic_discriminator",
        Occasion.SEMANTIC_DISCRIMINATOR,
        steps.semantic_discriminator_step,
        ("latents", "real"),
        weights=("semantic_adversarial",),
        moves_average=True,
    ),
    TrainingStep(
        "semantic_discriminator",
        Occasion.SEMANTIC_R1,
        steps.semantic_r1_step,
        ("real",),
        weights=("semantic_adversarial", "semantic_r1_gamma"),
        interval="discriminator_reg_interval",
    ),
)


@dataclass(frozen=True)
class IterationInputs:
    """Inputs of an iteration besides the state.

    Args:
        real: Real portraits of this process, shared by all steps.
        cameras: Camera labels of the dataset, [N, 25], on the training device.
        schedule: Current values of the schedules.
        precision: Precision of the networks.
        augment: See `StepContext.augment`.
        parts: Division of the batch.
        lap: Called with the name of the part that has just ended; see `Stopwatch`.
    """

    real: RealBatch
    cameras: Tensor
    schedule: ScheduleValues
    precision: TrainingPrecision
    parts: BatchParts
    augment: Callable[..., tuple[Tensor | None, ...]] | None = None
    lap: Callable[[str], None] = lambda _: None


def adversarial_iteration(
    state: TrainingState, inputs: IterationInputs, settings: TrainingSettings
) -> dict[str, Tensor]:
    """Run all steps that are due; return the metrics of this process's samples, by name."""
    metrics: dict[str, Tensor] = {}
    for step in STEPS:
        if step.is_due(state.iteration, settings):
            metrics |= _train_in_parts(step, state, inputs, settings)
    return metrics


def _train_in_parts(
    step: TrainingStep, state: TrainingState, inputs: IterationInputs, settings: TrainingSettings
) -> dict[str, Tensor]:
    """Accumulate the gradients of all parts, then update one network."""
    parts, w_avg = inputs.parts, state.networks.generator.mapping.w_avg
    start, total, logged = w_avg.clone(), torch.zeros_like(w_avg), []
    name = step.occasion.name.lower()
    with (
        torch.profiler.record_function(name),
        optimizing(
            getattr(state.networks, step.network),
            state.optimizers[step.network],
            state.scaler,
            max_gradient_norm=settings.optimizer.max_gradient_norm,
        ) as gradients,
    ):
        for number in range(parts.accumulation):
            w_avg.copy_(start)
            logged.append(_take(step, number, state, inputs, settings))
            total += w_avg
        inputs.lap(name)
    inputs.lap("optimizer")
    if step.moves_average and parts.num_units > 1:
        # Each part updates w_avg from the same start, linearly in its mean w, so the mean of the
        # results equals an update with the whole batch.
        w_avg.copy_(all_reduce_sum(total) / parts.num_units)
    measured = {f"Gradients/{name}/{what}": value for what, value in gradients.items()}
    return join_metrics(logged) | measured


def _take(
    step: TrainingStep,
    number: int,
    state: TrainingState,
    inputs: IterationInputs,
    settings: TrainingSettings,
) -> Metrics:
    """Take a step with one part of the batch."""
    parts, loss, networks = inputs.parts, settings.loss, state.networks
    key = (settings.loop.seed, state.num_rollbacks, state.iteration, step.occasion)
    z_dim = networks.generator.config.z_dim
    latents, random = parts.latents(key, number, z_dim, inputs.cameras)
    camera_noise = None
    if loss.camera_noise > 0:
        camera_noise = loss.camera_noise * inputs.cameras.std(dim=0, correction=0)
    context = StepContext(
        inputs.schedule,
        random=random,
        precision=inputs.precision,
        scaler=state.scaler,
        camera_noise=camera_noise,
        augment=inputs.augment,
        interval=step.interval_in(settings),
        share=1 / parts.accumulation,
    )
    batch = {"latents": latents, "real": parts.real(inputs.real, number)}
    return step.function(networks, *(batch[name] for name in step.inputs), loss, context)
