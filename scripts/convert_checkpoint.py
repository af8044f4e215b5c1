"""Convert a published snapshot to a checkpoint folder without executing anything in it."""

import logging
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mate3d.errors import UserError
from mate3d.options import FilePath, OptionError, Options, Precision
from scripts._entry import run
from scripts._options import Paths
from torch_utils.stages import stage

if TYPE_CHECKING:
    from mate3d.generator import Generator
    from mate3d.published.networks import PublishedSnapshot
    from mate3d.published.verify import Expected, Verification

_logger = logging.getLogger(__name__)

EXIT_NOT_VERIFIED = 1


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Options):
    """Convert a published snapshot of MaTe3D or EG3D to a checkpoint folder.

    python -m scripts.convert_checkpoint source=face.pkl output=checkpoints/face

    Snapshots are pickles that contain Python code. None of it is imported, compiled or executed:
    our own reader extracts tensors and plain data, and refuses anything else by name. The
    configuration, label set and cameras are inferred from the file.

    Args:
        source: The published .pkl file.
        output: Checkpoint folder to write, completely or not at all.
        overwrite: Replace an existing checkpoint folder.
        network: Which generator to convert: G_ema, the moving average that images are made with, or
            G, the weights of the last step.
        verify: File of recorded values to compare with: names, shapes, types and sums of the
            weights, and what the network renders. If any differs by more than 1e-4 of its largest
            value, nothing is written and the exit code is 1. The last line printed is "verified:
            yes" or "verified: no". The run folder gets verification.png: expected, ours, and 100
            times their difference.
        strict: Treat missing or unexpected tensors, and settings that our renderer does not
            support, as errors. With false they are listed, and missing tensors get random values.
        precision: Precision of the stored weights. Only fp32 passes `verify`.
        paths: Where files are.
    """

    source: FilePath
    output: FilePath
    overwrite: bool = False
    network: Literal["G_ema", "G"] = "G_ema"
    verify: FilePath | None = None
    strict: bool = True
    precision: Precision = "fp32"
    paths: Paths

    def __post_init__(self):
        super().__post_init__()
        if self.verify and self.network != "G_ema":
            raise OptionError("verify", self.verify, "compares G_ema, so use network=G_ema")


OPTIONS = ConvertOptions


def _convert(options: ConvertOptions) -> None:
    from mate3d.checkpoint import save_generator
    from mate3d.checkpoints.pretrained import check_replaceable
    from mate3d.published.card import make_card, report_lines
    from mate3d.published.conversion import convert_generator
    from mate3d.published.networks import read_published
    from mate3d.published.verify import load_expected
    from torch_utils.ops.execution import DTYPES

    # Refuse early to replace anything but a checkpoint, and that only with overwrite=true.
    output = Path(options.output)
    check_replaceable(output)
    if output.is_dir() and any(output.iterdir()) and not options.overwrite:
        raise UserError(f"output={output} holds a checkpoint; set overwrite=true to replace it")
    expected = load_expected(options.verify) if options.verify else None
    with stage("Reading the snapshot"):
        snapshot = read_published(options.source)
    if options.network not in snapshot.networks:
        found = ", ".join(snapshot.networks)
        raise UserError(f"network={options.network}; {options.source} holds {found}")
    with stage("Converting"):
        conversion = convert_generator(snapshot.networks[options.network], strict=options.strict)
    for line in report_lines(conversion, snapshot, options.network):
        _logger.info(line)
    verification = None
    if expected is not None:
        verification = _verify(snapshot, conversion.generator, expected, options)
        if not verification.is_verified:
            _logger.info("nothing was written to %s", options.output)
            _logger.info("verified: no")
            sys.exit(EXIT_NOT_VERIFIED)
    card = make_card(
        options.source,
        options.network,
        conversion,
        snapshot,
        precision=options.precision,
        verification=verification.lines() if verification else [],
    )
    with stage("Writing the checkpoint"):
        dtype = DTYPES[options.precision]
        save_generator(options.output, conversion.generator, card=card, dtype=dtype)
    _logger.info("wrote %s", options.output)
    if verification is not None:
        _logger.info("verified: yes")


def _verify(
    snapshot: "PublishedSnapshot",
    generator: "Generator",
    expected: "Expected",
    options: ConvertOptions,
) -> "Verification":
    """Compare what would be stored with recorded values, and draw the comparison."""
    from mate3d.outputs.visualize import save_image
    from mate3d.published.verify import comparison_picture, verify
    from torch_utils.ops.execution import DTYPES

    # The stored values are verified, including their rounding.
    generator.to(DTYPES[options.precision]).float()
    with stage("Verifying"):
        verification = verify(snapshot.networks, generator, expected)
    for line in verification.lines():
        _logger.info(line)
    if verification.has_pictures:
        path = Path(options.paths.run_folder) / "verification.png"
        save_image(path, comparison_picture(expected, verification, generator.label_set))
        _logger.info("expected, ours, difference x 100: %s", path)
    return verification


main = partial(run, "convert_checkpoint", _convert)

if __name__ == "__main__":
    main()
