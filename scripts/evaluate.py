"""Measure a checkpoint."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from mate3d.checkpoint import load_generator
from mate3d.errors import UserError
from mate3d.metrics.procedural import measure_against_truth
from scripts._device import choose_device
from scripts._entry import run

_logger = logging.getLogger(__name__)


def _evaluate(config: DictConfig) -> None:
    if config.num_heads < 1:
        raise UserError(f"num_heads={config.num_heads}; use 1 or more")
    generator = load_generator(config.generator, choose_device(config.device))
    if generator.label_set.name != "catmask_hq":
        raise UserError(
            f"the generator's labels are {generator.label_set.name};"
            " procedural truth exists for catmask_hq"
        )
    values = measure_against_truth(generator, config.num_heads, config.seed)
    path = Path(config.output) / "metrics.json"
    path.write_text(json.dumps(values, indent=2) + "\n")
    for name, value in values.items():
        _logger.info("%-16s %.4f", name, value)
    _logger.info("wrote %s", path)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script with the words of the command line."""
    run("evaluate", _evaluate, argv)


if __name__ == "__main__":
    main()
