"""Convert a published snapshot to a checkpoint folder without executing anything in it."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from mate3d.checkpoint import save_generator
from mate3d.checkpoints.pretrained import check_replaceable
from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.outputs.visualize import save_image
from mate3d.published.card import make_card, report_lines
from mate3d.published.conversion import convert_generator
from mate3d.published.networks import PublishedSnapshot, read_published
from mate3d.published.verify import (
    Expected,
    Verification,
    comparison_picture,
    load_expected,
    verify,
)
from scripts._entry import run

_logger = logging.getLogger(__name__)

EXIT_NOT_VERIFIED = 1
_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def _convert(config: DictConfig) -> None:
    dtype = _read_options(config)
    expected = load_expected(config.verify) if config.verify else None
    snapshot = read_published(config.source)
    if config.network not in snapshot.networks:
        found = ", ".join(snapshot.networks)
        raise UserError(f"network={config.network}; {config.source} holds {found}")
    conversion = convert_generator(snapshot.networks[config.network], strict=config.strict)
    for line in report_lines(conversion, snapshot, config.network):
        _logger.info(line)
    verification = None
    if expected is not None:
        verification = _verify(snapshot, conversion.generator, expected, dtype, config)
        if not verification.is_verified:
            _logger.info("nothing was written to %s", config.output)
            _logger.info("verified: no")
            sys.exit(EXIT_NOT_VERIFIED)
    card = make_card(
        config.source,
        config.network,
        conversion,
        snapshot,
        dtype=config.dtype,
        verification=verification.lines() if verification else [],
    )
    save_generator(config.output, conversion.generator, card=card, dtype=dtype)
    _logger.info("wrote %s", config.output)
    if verification is not None:
        _logger.info("verified: yes")


def _read_options(config: DictConfig) -> torch.dtype:
    """Check what can be checked before the snapshot is read; return the stored precision."""
    if config.network not in ("G", "G_ema"):
        raise UserError(f"network={config.network}; use G_ema or G")
    if config.verify and config.network != "G_ema":
        raise UserError(f"verify=... compares G_ema; network={config.network} cannot be verified")
    if config.dtype not in _DTYPES:
        raise UserError(f"dtype={config.dtype}; use {', '.join(_DTYPES)}")
    output = Path(config.output)
    check_replaceable(output)
    if output.is_dir() and any(output.iterdir()) and not config.overwrite:
        raise UserError(f"output={output} holds a checkpoint; say overwrite=true to replace it")
    return _DTYPES[config.dtype]


def _verify(
    snapshot: PublishedSnapshot,
    generator: Generator,
    expected: Expected,
    dtype: torch.dtype,
    config: DictConfig,
) -> Verification:
    """Compare what would be stored with recorded values, and draw the comparison."""
    # What is stored counts, so its rounding does too.
    generator.to(dtype).float()
    verification = verify(snapshot.networks, generator, expected)
    for line in verification.lines():
        _logger.info(line)
    if verification.has_pictures:
        path = Path(config.paths.run_folder) / "verification.png"
        save_image(path, comparison_picture(expected, verification, generator.label_set))
        _logger.info("expected, ours, difference x 100: %s", path)
    return verification


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script with the words of the command line."""
    run("convert_checkpoint", _convert, argv)


if __name__ == "__main__":
    main()
