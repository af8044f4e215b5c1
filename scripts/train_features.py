"""Train the feature network that compares procedural portraits."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mate3d.errors import UserError
from mate3d.metrics.feature_network import FeatureNetworkSizes
from mate3d.options import Device, FilePath, Options, Seed
from scripts._device import choose_device
from scripts._long_run import run_long
from scripts._options import Paths, Resume
from torch_utils.distributed import world
from training.feature_network.settings import FeatureTrainingSettings

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainFeaturesOptions(Options):
    """Train the feature network that compares procedural portraits (FID, KID, mIoU).

    python -m scripts.train_features data=[data/cats.zip,data/rich.zip] output=outputs/features

    Args:
        data: Datasets with attributes, as prepare_data writes them for procedural portraits; a
            list in brackets.
        output: Run folder; the network is written to its subfolder `model`.
        resume: true resumes from the state in `output`; auto does so if there is one, and starts a
            new run otherwise.
        seed: Seed of initial weights, data order and degradations.
        device: Where to train; auto uses a GPU if there is one.
        network: Sizes of the network.
        training: Training of the network.
        paths: Where files are.
    """

    data: tuple[FilePath, ...]
    output: FilePath
    resume: Resume = "false"
    seed: Seed = 0
    device: Device = "auto"
    network: FeatureNetworkSizes = FeatureNetworkSizes()
    training: FeatureTrainingSettings = FeatureTrainingSettings()
    paths: Paths


OPTIONS = TrainFeaturesOptions


def _train(options: TrainFeaturesOptions, command: str, resume: bool) -> None:
    from training.feature_network.train import train_feature_network

    if world().size > 1:
        raise UserError("train_features uses a single process; start it without torchrun")
    folder = train_feature_network(
        options.data,
        Path(options.output),
        options.training,
        options.network,
        seed=options.seed,
        device=choose_device(options.device),
        resume=resume,
        command=command,
    )
    if folder is not None:
        _logger.info("features: %s", folder)


main = partial(run_long, "train_features", _train)

if __name__ == "__main__":
    main()
