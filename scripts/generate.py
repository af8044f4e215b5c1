"""Make pictures, videos and meshes of heads from seeds."""

import logging
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from mate3d.checkpoint import load_generator
from mate3d.generation.options import read_options
from mate3d.generation.run import GenerationRun
from scripts._device import choose_device
from scripts._entry import run

# Options that say where to read, run and write, not what.
_PLACES = ("paths", "output", "generator", "device")

_logger = logging.getLogger(__name__)


def _generate(config: DictConfig) -> None:
    values: dict[str, Any] = OmegaConf.to_container(config)
    options = read_options({key: value for key, value in values.items() if key not in _PLACES})
    device = choose_device(config.device)
    generation = GenerationRun(load_generator(config.generator, device), options)
    # Without a terminal there is no bar.
    with tqdm(total=generation.num_views, unit="view", disable=None) as bar:
        paths = generation.write(config.output, source=config.generator, on_view=bar.update)
    _logger.info("wrote %d files in %s", len(paths), config.output)


main = partial(run, "generate", _generate)

if __name__ == "__main__":
    main()
