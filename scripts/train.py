"""Train a generator and its discriminators."""

import logging
import shlex
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mate3d.generator_config import GeneratorConfig, GeneratorSizes
from mate3d.network.discriminator import DiscriminatorSizes
from mate3d.options import Device, FilePath, OptionError, Options, config_to_dict
from mate3d.rendering.renderer import RenderingConfig
from scripts._compose import flatten, read_options
from scripts._device import choose_device
from scripts._long_run import run_long
from scripts._options import Paths, Resume
from torch_utils.distributed import distributed, is_main
from training.augmentation.settings import AugmentSettings
from training.data.dataset_options import DatasetOptions
from training.evaluation.settings import MetricSettings
from training.losses.terms import LossSettings
from training.optimization.adam import OptimizerSettings
from training.optimization.schedules import ScheduleSettings
from training.run_folder.safety import SafetySettings
from training.settings import LoopSettings, TrainingSettings, WarmStartSettings

if TYPE_CHECKING:
    import torch

# Sides of the images that experiment=photos_* trains on.
_PHOTO_SIDES = (128, 256)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelOptions(Options):
    """The networks.

    Args:
        generator: Sizes and conventions of the generator.
        discriminator: Sizes of both discriminators; the rest follows from the generator.
    """

    generator: GeneratorSizes = GeneratorSizes()
    discriminator: DiscriminatorSizes = DiscriminatorSizes()


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """Train a generator and its discriminators on portraits with masks.

    python -m scripts.train experiment=demo_cat data=data/cats128.zip output=outputs/train_cats

    Args:
        data: Dataset written by prepare_data: a folder or .zip. With train.streaming also the URL
            of a folder of shards, or a command: 'pipe:aws s3 cp s3://bucket/cats/{} -'.
        output: Folder for logs, sample grids, checkpoint and training state.
        resume: true resumes the run in `output` exactly where it stopped; auto does so if there is
            one, and starts a new run otherwise.
        init_from: Start from the weights of another run: its folder, a checkpoint folder, or a
            published snapshot (.pkl) of MaTe3D or EG3D. Weights that fit are copied, all others
            are listed; see docs/training.md.
        device: Where to train; auto uses a GPU if there is one.
        with_flips: Also train on mirrored copies, with left and right labels swapped.
        train: Length, batch size, logging and precision of the run.
        dataset: The dataset; only its name and label set matter here.
        model: Sizes of the networks.
        rendering: Ranges and conventions of rendering, stored with the generator.
        loss: Weights and settings of the losses.
        optimizer: Adam for all networks.
        schedule: Schedules; counts start with the adversarial training.
        augment: Augmentation of the discriminators' inputs (ADA); see docs/augmentation.md.
        metrics: Metrics, and how often to measure them.
        safety: Which checkpoints a run keeps, and when it rolls back; see docs/reliability.md.
        warm_start: Only used with train.warm_start=procedural.
        paths: Where files are.
    """

    data: FilePath
    output: FilePath
    resume: Resume = "false"
    init_from: FilePath | None = None
    device: Device = "auto"
    with_flips: bool = False
    train: LoopSettings = LoopSettings()
    dataset: DatasetOptions
    model: ModelOptions = ModelOptions()
    rendering: RenderingConfig = RenderingConfig()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    augment: AugmentSettings = AugmentSettings()
    metrics: MetricSettings = MetricSettings()
    safety: SafetySettings = SafetySettings()
    warm_start: WarmStartSettings = WarmStartSettings()
    paths: Paths

    @property
    def generator_config(self) -> GeneratorConfig:
        """The generator's sizes and rendering."""
        return GeneratorConfig(**vars(self.model.generator), rendering=self.rendering)

    @property
    def settings(self) -> TrainingSettings:
        """The settings that the loop and its steps read."""
        # A sphere would destroy the shapes of other weights.
        loop = self.train if self.init_from is None else replace(self.train, sphere_init_steps=0)
        return TrainingSettings(
            loop=loop,
            loss=self.loss,
            schedule=self.schedule,
            optimizer=self.optimizer,
            augment=self.augment,
            metrics=self.metrics,
            safety=self.safety,
            warm_start=self.warm_start,
        )


OPTIONS = TrainOptions


def _train(options: TrainOptions, command: str, resume: bool) -> None:
    from torch_utils.heap import keep_freed_memory

    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    with distributed(device.type):
        if is_main():
            _warn_of_idle_ablation(options, command)
        _run(options, command, device, resume=resume)


def _warn_of_idle_ablation(options: TrainOptions, command: str) -> None:
    words = shlex.split(command)[3:]
    others = [word for word in words if not word.startswith("ablation=")]
    if others != words and read_options("train", [*others, f"resume={options.resume}"]) == options:
        _logger.warning("the ablation changes nothing: its values hold without it, too")


def _run(options: TrainOptions, command: str, device: "torch.device", *, resume: bool) -> None:
    import torch

    from training.build_state import build_state, check_label_set
    from training.data.dataset import PortraitDataset
    from training.loop import Trainer
    from training.run_folder.observers import mirrored_online
    from training.run_folder.retention import CHECKPOINT_FOLDER
    from training.run_folder.state_file import STATE_FILE
    from training.start.init_from import read_source
    from training.state import load_state

    output, settings = Path(options.output), options.settings
    generator_config = options.generator_config
    dataset = PortraitDataset(options.data, with_flips=options.with_flips)
    _check_size(options, dataset.resolution)
    dataset.resolution = generator_config.resolution
    check_label_set(generator_config, dataset.label_set)
    torch.manual_seed(settings.loop.seed)
    state = build_state(
        generator_config,
        options.model.discriminator,
        settings,
        dataset.camera_labels,
        device,
        # A resumed run has its weights already.
        None if resume or options.init_from is None else read_source(options.init_from),
    )
    mirrored = ", half of them mirrored" if options.with_flips else ""
    description = (
        f"{options.dataset.name}, {len(dataset)} images of {dataset.resolution} px{mirrored}"
    )
    named_options = dict(flatten(config_to_dict(options)))
    trainer = Trainer(
        state,
        dataset,
        settings,
        output,
        command=command,
        data_description=description,
        options=named_options,
    )
    if resume:
        load_state(output / STATE_FILE, state)
    with mirrored_online(output, settings.loop.wandb, named_options):
        is_complete = trainer.run()
    if is_complete:
        _logger.info("done: %s", output / CHECKPOINT_FOLDER)


def _check_size(options: TrainOptions, side: int) -> None:
    """Name the experiment that fits if the images, with `side` pixels, are too small."""
    resolution = options.model.generator.resolution
    if resolution > side:
        fitting = [f"experiment=photos_{each}, or " for each in _PHOTO_SIDES if each <= side][-1:]
        advice = f"use {''.join(fitting)}a model of at most {side} px, or prepare larger images"
        what = f"{options.data} has images of {side} px; {advice}"
        raise OptionError("model.generator.resolution", resolution, what)


main = partial(run_long, "train", _train)

if __name__ == "__main__":
    main()
