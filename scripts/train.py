"""Train a generator and its discriminators."""

import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from mate3d.checkpoint import config_from_dict
from mate3d.errors import UserError
from mate3d.generator import GeneratorConfig
from scripts._device import choose_device
from scripts._entry import run
from training.data import PortraitDataset
from training.loop import LoopSettings, Trainer, TrainingSettings
from training.losses.terms import LossSettings
from training.optimization import OptimizerSettings
from training.schedules import ScheduleSettings
from training.setup import StageSettings, build_state, check_label_set
from training.state import STATE_FILE, load_state
from training.warm_start import WarmStartConfig

_logger = logging.getLogger(__name__)


def _train(config: DictConfig) -> None:
    values = OmegaConf.to_container(config)
    device, output = choose_device(config.device), Path(config.output)
    if (output / STATE_FILE).exists() and not config.resume:
        raise UserError(f"{output} holds a training run; say resume=true or choose another output")
    generator_config = config_from_dict(GeneratorConfig, values["model"]["generator"])
    dataset = PortraitDataset(
        config.data, resolution=generator_config.resolution, with_flips=config.with_flips
    )
    check_label_set(generator_config, dataset.label_set)
    stages, settings = _read_settings(values)
    torch.manual_seed(settings.loop.seed)
    state = build_state(
        generator_config,
        values["model"]["discriminator"],
        settings,
        stages,
        dataset.camera_labels,
        device,
    )
    if config.resume:
        load_state(output / STATE_FILE, state)
    command = shlex.join(["python", "-m", "scripts.train", *_own_words(), f"output={output}"])
    trainer = Trainer(
        state,
        dataset,
        settings,
        output,
        command=command,
        data_description=f"{config.dataset.name}, {len(dataset)} images of {dataset.resolution} px",
    )
    if trainer.run():
        _logger.info("done: %s", output / "checkpoint")
    else:
        _logger.info("stopped at %d images; to go on:", state.images_seen)
        _logger.info("  %s resume=true", command)


def _read_settings(values: dict[str, Any]) -> tuple[StageSettings, TrainingSettings]:
    train = dict(values["train"])
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


def _own_words() -> list[str]:
    """Return the user's words but for what differs when the same run is repeated or resumed."""
    return [word for word in sys.argv[1:] if not word.startswith(("output=", "resume="))]


def main() -> None:
    """Run the command line."""
    run("train", _train)


if __name__ == "__main__":
    main()
