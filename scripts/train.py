"""Train a generator and its discriminators."""

import logging
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from mate3d.checkpoints.storage import config_from_dict
from mate3d.generator import GeneratorConfig
from scripts._compose import flatten
from scripts._device import choose_device
from scripts._long_run import run_long
from torch_utils.distributed import distributed
from torch_utils.heap import keep_freed_memory
from training.augmentation import AugmentSettings
from training.build_state import StageSettings, build_state, check_label_set
from training.data.dataset import PortraitDataset
from training.evaluation import MetricSettings
from training.loop import Trainer
from training.losses.terms import LossSettings
from training.optimization.adam import OptimizerSettings
from training.optimization.schedules import ScheduleSettings
from training.run_folder.retention import CHECKPOINT_FOLDER
from training.run_folder.safety import SafetySettings
from training.run_folder.state_file import STATE_FILE
from training.settings import LoopSettings, TrainingSettings
from training.start.init_from import read_source
from training.start.warm_start_losses import WarmStartConfig
from training.state import load_state

_logger = logging.getLogger(__name__)


def _train(config: DictConfig, command: str, resume: bool) -> None:
    device = choose_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    with distributed(device.type):
        _run(config, command, device, resume=resume)


def _run(config: DictConfig, command: str, device: torch.device, *, resume: bool) -> None:
    output = Path(config.output)
    generator_config = read_generator_config(config)
    dataset = PortraitDataset(
        config.data, resolution=generator_config.resolution, with_flips=config.with_flips
    )
    check_label_set(generator_config, dataset.label_set)
    stages, settings = read_settings(config)
    torch.manual_seed(settings.loop.seed)
    state = build_state(
        generator_config,
        OmegaConf.to_container(config.model.discriminator),
        settings,
        stages,
        dataset.camera_labels,
        device,
        # A resumed run has its weights already.
        None if resume or config.init_from is None else read_source(config.init_from),
    )
    description = f"{config.dataset.name}, {len(dataset)} images of {dataset.resolution} px"
    trainer = Trainer(
        state,
        dataset,
        settings,
        output,
        command=command,
        data_description=description,
        options=dict(flatten(config)),
    )
    if resume:
        load_state(output / STATE_FILE, state)
    if trainer.run():
        _logger.info("done: %s", output / CHECKPOINT_FOLDER)


def read_generator_config(config: DictConfig) -> GeneratorConfig:
    """Return the generator's sizes and conventions."""
    return config_from_dict(GeneratorConfig, OmegaConf.to_container(config.model.generator))


def read_settings(config: DictConfig) -> tuple[StageSettings, TrainingSettings]:
    """Return what comes before the adversarial training, and the settings of all the rest."""
    values = OmegaConf.to_container(config)
    train = values["train"]
    stages = StageSettings(
        warm_start=train.pop("warm_start"),
        sphere_init_steps=train.pop("sphere_init_steps"),
        warm_start_config=config_from_dict(WarmStartConfig, values["warm_start"]),
    )
    settings = TrainingSettings(
        loop=config_from_dict(LoopSettings, train),
        loss=config_from_dict(LossSettings, values["loss"]),
        schedule=config_from_dict(ScheduleSettings, values["schedule"]),
        optimizer=config_from_dict(OptimizerSettings, values["optimizer"]),
        augment=config_from_dict(AugmentSettings, values["augment"]),
        metrics=config_from_dict(MetricSettings, values["metrics"]),
        safety=config_from_dict(SafetySettings, values["safety"]),
    )
    return stages, settings


main = partial(run_long, "train", _train)

if __name__ == "__main__":
    main()
