"""Train a generator and its discriminators."""

import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from mate3d.errors import UserError
from mate3d.generator import GeneratorConfig
from mate3d.storage import config_from_dict
from scripts._device import choose_device
from scripts._entry import run
from torch_utils.heap import keep_freed_memory
from training.data import PortraitDataset
from training.init_from import InitSource, read_source
from training.loop import CHECKPOINT_FOLDER, LoopSettings, Trainer, TrainingSettings
from training.losses.terms import LossSettings
from training.optimization import OptimizerSettings
from training.schedules import ScheduleSettings
from training.setup import StageSettings, build_state, check_label_set
from training.state import STATE_FILE, load_state
from training.warm_start import WarmStartConfig

_logger = logging.getLogger(__name__)


def _train(config: DictConfig, words: list[str]) -> None:
    device, output = choose_device(config.device), Path(config.output)
    if device.type == "cpu":
        keep_freed_memory()
    if (output / STATE_FILE).exists() and not config.resume:
        raise UserError(f"{output} holds a training run; say resume=true or choose another output")
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
        _read_init_source(config),
    )
    if config.resume:
        load_state(output / STATE_FILE, state)
    # What stays the same when this run is repeated or resumed.
    own_words = [word for word in words if not word.startswith(("output=", "resume="))]
    command = shlex.join(["python", "-m", "scripts.train", *own_words, f"output={output}"])
    description = f"{config.dataset.name}, {len(dataset)} images of {dataset.resolution} px"
    trainer = Trainer(
        state, dataset, settings, output, command=command, data_description=description
    )
    if trainer.run():
        _logger.info("done: %s", output / CHECKPOINT_FOLDER)
    else:
        _logger.info("stopped at %d images; to go on:", state.images_seen)
        _logger.info("  %s resume=true", command)


def _read_init_source(config: DictConfig) -> InitSource | None:
    """Return the weights to start from; a resumed run has them already."""
    if config.init_from is None or config.resume:
        return None
    return read_source(config.init_from)


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
    )
    return stages, settings


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    run("train", lambda config: _train(config, words), words)


if __name__ == "__main__":
    main()
