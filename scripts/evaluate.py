"""Measure a checkpoint."""

import json
import logging
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig

from mate3d.checkpoint import load_generator
from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.metrics.procedural import measure_against_truth
from scripts._device import choose_device
from scripts._entry import run
from training.data.dataset import PortraitDataset
from training.evaluation import MetricSettings, TrainingEvaluator

_logger = logging.getLogger(__name__)


def _evaluate(config: DictConfig) -> None:
    if config.num_heads < 1:
        raise UserError(f"num_heads={config.num_heads}; use 1 or more")
    device = choose_device(config.device)
    generator = load_generator(config.generator, device)
    if config.data is None:
        values = _measure_against_truth(generator, config)
    else:
        values = _measure_against_data(generator, config, device)
    path = Path(config.output) / "metrics.json"
    path.write_text(json.dumps(values, indent=2) + "\n")
    for name, value in values.items():
        _logger.info("%-26s %.4f", name, value)
    _logger.info("wrote %s", path)


def _measure_against_truth(generator: Generator, config: DictConfig) -> dict[str, float]:
    if generator.label_set.name != "catmask_hq":
        raise UserError(
            f"the generator's labels are {generator.label_set.name}; procedural truth exists for"
            " catmask_hq (data= compares with a data set)"
        )
    return measure_against_truth(generator, config.num_heads, config.seed)


def _measure_against_data(
    generator: Generator, config: DictConfig, device: torch.device
) -> dict[str, float]:
    dataset = PortraitDataset(
        config.data, resolution=generator.config.resolution, with_flips=config.with_flips
    )
    has_other_labels = dataset.label_set.name != generator.label_set.name
    if generator.label_set.num_classes > 0 and has_other_labels:
        raise UserError(
            f"data={config.data} has labels {dataset.label_set.name}, but the generator"
            f" {generator.label_set.name}"
        )
    settings = MetricSettings(**config.metrics)
    if not settings.names:
        raise UserError("metrics.names=[] measures nothing; name what to measure")
    evaluator = TrainingEvaluator(settings, dataset, device, Path(config.cache))
    return evaluator.measure(generator, dataset.camera_labels, config.seed)


main = partial(run, "evaluate", _evaluate)

if __name__ == "__main__":
    main()
