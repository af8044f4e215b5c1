"""Train the network whose features compare procedural portraits."""

import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mate3d.metrics.feature_network import FeatureNetworkSizes
from mate3d.options import Device, FilePath, Options, Seed
from scripts._device import choose_device
from scripts._entry import run
from scripts._options import Paths
from training.feature_network.settings import FeatureTrainingSettings

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainFeaturesOptions(Options):
    """Train the network whose features compare procedural portraits (FID, KID, labels).

      python -m scripts.train_features data=[cats.zip,people.zip] output=outputs/features

    Args:
        data: Data sets with attributes, as prepare_data writes them for procedural portraits; a
            list in brackets.
        output: Run folder; the network appears in its sub-folder `model`.
        seed: Seed of initial weights, order and degradations.
        device: Where to train; auto uses a GPU if there is one.
        network: Sizes of the network.
        training: How the network learns.
        paths: Where files are.
    """

    data: tuple[FilePath, ...]
    output: FilePath
    seed: Seed = 0
    device: Device = "auto"
    network: FeatureNetworkSizes = FeatureNetworkSizes()
    training: FeatureTrainingSettings = FeatureTrainingSettings()
    paths: Paths


OPTIONS = TrainFeaturesOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script with the words of the command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = shlex.join(["python", "-m", "scripts.train_features", *words])
    run("train_features", lambda options: _train(options, command), words)


def _train(options: TrainFeaturesOptions, command: str) -> None:
    from training.feature_network.train import train_feature_network

    folder = train_feature_network(
        options.data,
        Path(options.output),
        options.training,
        options.network,
        seed=options.seed,
        device=choose_device(options.device),
        command=command,
        with_progress_bar=True,
    )
    _logger.info("features: %s", folder)


if __name__ == "__main__":
    main()
