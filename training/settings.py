"""Settings of a run: its length, logging and division into parts."""

from dataclasses import dataclass
from typing import Annotated, Literal

from mate3d.options import (
    AtLeast,
    NonNegativeFloat,
    NonNegativeInt,
    Options,
    PositiveFloat,
    PositiveInt,
    Seed,
)
from training.augmentation.settings import AugmentSettings
from training.data.loader import MAX_UNREADABLE
from training.evaluation.settings import MetricSettings
from training.losses.terms import LossSettings
from training.optimization.adam import OptimizerSettings
from training.optimization.precision import PrecisionName
from training.optimization.schedules import ScheduleSettings
from training.run_folder.safety import SafetySettings


@dataclass(frozen=True)
class LoopSettings(Options):
    """Length, batch size, logging and precision of a run.

    Args:
        batch_size: Images per iteration, over all processes.
        accumulation: Number of parts into which each process splits its share of a batch (gradient
            accumulation). More parts need less memory; the gradients are the same.
        total_kimg: Length of the adversarial training, in thousands of images.
        tick_kimg: How often to log, in thousands of images.
        snapshot_ticks: Ticks between snapshots (sample grids, checkpoint, training state).
        seed: Seed of weights, latents, noise and data order.
        num_workers: Processes that read the dataset; 0 reads in the main process.
        streaming: Read tar shards (prepare_data shard_size=...) from start to end instead of single
            samples in any order: for many nodes, network storage, or `data` as a URL or pipe.
            Resume with the same batch_size and num_workers.
        max_unreadable: Maximum number of damaged samples to skip, each with a warning; one more
            stops the run.
        grid_rows: Rows of the sample grids.
        grid_columns: Columns of the sample grids.
        with_progress_bar: Show a progress bar on stderr if that is a terminal.
        precision: Precision of backbone, super-resolutions and discriminators. Everything else is
            fp32; mixed is bf16 on a GPU, with the backbone in fp32. See docs/training.md.
        compile: Compile the networks with torch.compile: the first iterations are slow, later ones
            faster.
        warm_start: Before the adversarial training, learn the fields of procedural portraits; none
            is for real data.
        sphere_init_steps: Initial steps that fit all signed distances to a sphere; none with
            init_from.
        overfit_steps: Initial steps that reconstruct one batch, to check that data, cameras, masks
            and networks fit together; the run then fails if images stay below 28 dB. See
            debug=overfit.
        profile: Iterations to trace with PyTorch's profiler into the run folder, after the first
            five of each start; 0 costs nothing.
        wandb: Project of Weights & Biases that also receives TensorBoard's values.
    """

    batch_size: PositiveInt = 32
    accumulation: PositiveInt = 1
    total_kimg: NonNegativeFloat = 25000.0
    tick_kimg: Annotated[float, AtLeast(0.001)] = 4.0
    snapshot_ticks: PositiveInt = 50
    seed: Seed = 0
    num_workers: NonNegativeInt = 2
    streaming: bool = False
    max_unreadable: NonNegativeInt = MAX_UNREADABLE
    grid_rows: PositiveInt = 3
    grid_columns: PositiveInt = 6
    with_progress_bar: bool = True
    precision: PrecisionName = "fp32"
    compile: bool = False
    warm_start: Literal["none", "procedural"] = "none"
    sphere_init_steps: NonNegativeInt = 0
    overfit_steps: NonNegativeInt = 0
    profile: NonNegativeInt = 0
    wandb: str | None = None


@dataclass(frozen=True)
class WarmStartSettings(Options):
    """Lengths and sizes of the warm start.

    Args:
        num_field_steps: Steps on points and rays, for mapping, backbone and decoder.
        num_image_steps: Steps on whole images, for both super-resolutions.
        batch_size: Heads per field step.
        num_points: Points per head.
        num_rays: Rays per head; 0 learns from points alone.
        ray_interval: Field steps between ray tracings, the most expensive part.
        image_batch_size: Images per image step.
        pool_size: Traced images to keep for image steps.
        lr: Peak learning rate of Adam; falls to a tenth along a cosine.
        color_weight: Weight of surface colours at points.
        label_weight: Weight of the class labels at the surface.
        ray_weight: Weight of composited colours and opacity.
        attribute_weight: Weight of predicting a portrait's attributes from its style vector.
        attribute_batch_size: Additional latents per step that only the mapping sees. They cost
            almost nothing and let the mapping learn from many more heads.
    """

    num_field_steps: NonNegativeInt = 4000
    num_image_steps: NonNegativeInt = 1000
    batch_size: PositiveInt = 4
    num_points: PositiveInt = 4096
    num_rays: NonNegativeInt = 512
    ray_interval: PositiveInt = 4
    image_batch_size: PositiveInt = 4
    pool_size: PositiveInt = 512
    lr: PositiveFloat = 1e-2
    color_weight: NonNegativeFloat = 1.0
    label_weight: NonNegativeFloat = 0.1
    ray_weight: NonNegativeFloat = 1.0
    attribute_weight: NonNegativeFloat = 1.0
    attribute_batch_size: PositiveInt = 256


@dataclass(frozen=True)
class TrainingSettings:
    """All settings that the loop and its steps read."""

    loop: LoopSettings
    loss: LossSettings = LossSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    augment: AugmentSettings = AugmentSettings()
    metrics: MetricSettings = MetricSettings(names=())
    safety: SafetySettings = SafetySettings()
    warm_start: WarmStartSettings = WarmStartSettings()
