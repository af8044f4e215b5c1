"""Measure a checkpoint."""

import json
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mate3d.errors import UserError
from mate3d.options import Device, FilePath, OptionError, Options, PositiveInt, Seed
from scripts._device import choose_device
from scripts._entry import run
from scripts._options import Paths
from torch_utils.stages import stage
from training.evaluation.settings import MetricSettings

if TYPE_CHECKING:
    import torch

    from mate3d.generator import Generator

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """Measure a generator against a dataset, or against exact procedural cats of the same latents.

    python -m scripts.evaluate generator=demo_cat data=data/cats128.zip output=outputs/evaluate_cats
    python -m scripts.evaluate generator=demo_cat output=outputs/evaluate_truth

    Args:
        generator: Generator to measure: a checkpoint folder, owner/name on the Hugging Face hub, or
            demo_cat, which comes with the project. Without data, it must have been trained with
            train.warm_start=procedural.
        data: Dataset to compare with, as set by `metrics`; null compares with exact procedural
            cats.
        with_flips: Also compare with mirrored copies of all images, as in training with this
            option.
        cache: Folder that caches the features of real images.
        output: Run folder; receives metrics.json.
        num_heads: Without data: number of random heads, each seen from one random view.
        seed: Seed of latents, cameras and points.
        device: Where networks run; auto uses a GPU if there is one.
        metrics: Metrics against a dataset.
        paths: Where files are.
    """

    generator: FilePath
    data: FilePath | None = None
    with_flips: bool = False
    cache: FilePath
    output: FilePath
    num_heads: PositiveInt = 64
    seed: Seed = 0
    device: Device = "auto"
    metrics: MetricSettings = MetricSettings()
    paths: Paths

    def __post_init__(self):
        super().__post_init__()
        if self.data is not None and not self.metrics.names:
            raise OptionError("metrics.names", (), "use at least one metric, such as [fid]")


OPTIONS = EvaluateOptions


def _evaluate(options: EvaluateOptions) -> None:
    with stage("Loading the generator"):
        from mate3d.checkpoint import load_generator

        device = choose_device(options.device)
        generator = load_generator(options.generator, device)
    if options.data is None:
        from mate3d.metrics.procedural import measure_against_truth

        if generator.label_set.name != "catmask_hq":
            raise UserError(
                f"the generator has labels {generator.label_set.name}; without data=, only"
                " catmask_hq can be measured"
            )
        values = measure_against_truth(generator, options.num_heads, options.seed)
    else:
        values = _measure_against_data(generator, options, device)
    path = Path(options.output) / "metrics.json"
    path.write_text(json.dumps(values, indent=2) + "\n")
    for name, value in values.items():
        _logger.info("%-26s %.4f", name, value)
    _logger.info("wrote %s", path)


def _measure_against_data(
    generator: "Generator", options: EvaluateOptions, device: "torch.device"
) -> dict[str, float]:
    from training.data.dataset import PortraitDataset
    from training.evaluation import TrainingEvaluator

    with stage("Opening the dataset"):
        dataset = PortraitDataset(
            options.data, resolution=generator.config.resolution, with_flips=options.with_flips
        )
    has_other_labels = dataset.label_set.name != generator.label_set.name
    if generator.label_set.num_classes > 0 and has_other_labels:
        raise UserError(
            f"data={options.data} has labels {dataset.label_set.name}, but the generator has"
            f" {generator.label_set.name}"
        )
    with stage("Loading the networks of the metrics"):
        evaluator = TrainingEvaluator(options.metrics, dataset, device, Path(options.cache))
    return evaluator.measure(generator, dataset.camera_labels, options.seed)


main = partial(run, "evaluate", _evaluate)

if __name__ == "__main__":
    main()
