"""Train a generator and its discriminators."""

import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from mate3d.errors import UserError
from mate3d.generator import GeneratorConfig
from mate3d.options import config_from_dict
from scripts._compose import flatten
from scripts._device import choose_device
from scripts._entry import run
from torch_utils.distributed import broadcast_object, distributed, world
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
from training.run_folder.safety import SafetySettings, only_writer
from training.settings import LoopSettings, TrainingSettings
from training.start.init_from import read_source
from training.start.warm_start_losses import WarmStartConfig
from training.state import STATE_FILE, has_state, load_state

_logger = logging.getLogger(__name__)


def _train(config: DictConfig, words: list[str]) -> None:
    device, output = choose_device(config.device), Path(config.output)
    if device.type == "cpu":
        keep_freed_memory()
    with distributed(device.type):
        has_run = broadcast_object(has_state(output / STATE_FILE))
        resume = has_run if config.resume == "auto" else config.resume == "true"
        _run(config, words, device, resume=resume)


@contextmanager
def _only_run(config: DictConfig) -> Iterator[None]:
    """Hold the run folder, unless that would spoil a run that is in it.

    Raises:
        UserError: If `resume` is no choice, or a new run would write over another one.
    """
    choice, output = config.resume, Path(config.output)
    if choice not in ("true", "false", "auto"):
        raise UserError(f"resume={choice}; use true, false or auto")
    with only_writer(output):
        if choice == "false" and has_state(output / STATE_FILE):
            raise UserError(
                f"{output} holds a training run; say resume=true or choose another output"
            )
        yield


def _run(config: DictConfig, words: list[str], device: torch.device, *, resume: bool) -> None:
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
    # What stays the same when this run is repeated or resumed.
    own_words = [word for word in words if not word.startswith(("output=", "resume="))]
    command = shlex.join(["python", "-m", "scripts.train", *own_words, f"output={output}"])
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
    else:
        launched = ", launched as before" if world().size > 1 else ""
        _logger.info("stopped at %d images; to go on%s:", state.images_seen, launched)
        _logger.info("  %s resume=true", command)


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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    run("train", lambda config: _train(config, words), words, guard=_only_run)


if __name__ == "__main__":
    main()
