"""Train the network whose features compare procedural portraits."""

import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from scripts._device import choose_device
from scripts._entry import run
from training.feature_network.train import FeatureTrainingSettings, train_feature_network

_logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script with the words of the command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = shlex.join(["python", "-m", "scripts.train_features", *words])
    run("train_features", lambda config: _train(config, command), words)


def _train(config: DictConfig, command: str) -> None:
    folder = train_feature_network(
        list(config.data),
        Path(config.output),
        FeatureTrainingSettings(**config.training),
        OmegaConf.to_container(config.network),
        seed=config.seed,
        device=choose_device(config.device),
        command=command,
        with_progress_bar=True,
    )
    _logger.info("features: %s", folder)


if __name__ == "__main__":
    main()
