"""Train the network whose features compare procedural portraits."""

import logging
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from scripts._device import choose_device
from scripts._long_run import run_long
from training.feature_network.train import FeatureTrainingSettings, train_feature_network

_logger = logging.getLogger(__name__)


def _train(config: DictConfig, command: str, resume: bool) -> None:
    folder = train_feature_network(
        list(config.data),
        Path(config.output),
        FeatureTrainingSettings(**config.training),
        OmegaConf.to_container(config.network),
        seed=config.seed,
        device=choose_device(config.device),
        resume=resume,
        command=command,
        with_progress_bar=True,
    )
    if folder is not None:
        _logger.info("features: %s", folder)


main = partial(run_long, "train_features", _train)

if __name__ == "__main__":
    main()
