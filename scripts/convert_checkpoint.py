"""Convert a published snapshot to a checkpoint folder without executing anything in it."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from mate3d.errors import UserError
from mate3d.options import FilePath, Options, Precision
from scripts._entry import run
from scripts._options import Paths
from torch_utils.stages import stage

_logger = logging.getLogger(__name__)


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
        strict: Treat missing or unexpected tensors, and settings that our renderer does not
            support, as errors. With false they are listed, and missing tensors get random values.
        precision: Precision of the stored weights.
        paths: Where files are.
    """

    source: FilePath
    output: FilePath
    overwrite: bool = False
    network: Literal["G_ema", "G"] = "G_ema"
    strict: bool = True
    precision: Precision = "fp32"
    paths: Paths


OPTIONS = ConvertOptions


def _convert(options: ConvertOptions) -> None:
    from mate3d.checkpoint import save_generator
    from mate3d.checkpoints.pretrained import check_replaceable
    from mate3d.published.card import make_card, report_lines
    from mate3d.published.conversion import convert_generator
    from mate3d.published.networks import read_published
    from torch_utils.ops.execution import DTYPES

    # Refuse early to replace anything but a checkpoint, and that only with overwrite=true.
    output = Path(options.output)
    check_replaceable(output)
    if output.is_dir() and any(output.iterdir()) and not options.overwrite:
        raise UserError(f"output={output} holds a checkpoint; set overwrite=true to replace it")
    with stage("Reading the snapshot"):
        snapshot = read_published(options.source)
    if options.network not in snapshot.networks:
        found = ", ".join(snapshot.networks)
        raise UserError(f"network={options.network}; {options.source} holds {found}")
    with stage("Converting"):
        conversion = convert_generator(snapshot.networks[options.network], strict=options.strict)
    for line in report_lines(conversion, snapshot, options.network):
        _logger.info(line)
    card = make_card(
        options.source,
        options.network,
        conversion,
        snapshot,
        precision=options.precision,
    )
    with stage("Writing the checkpoint"):
        dtype = DTYPES[options.precision]
        save_generator(options.output, conversion.generator, card=card, dtype=dtype)
    _logger.info("wrote %s", options.output)


main = partial(run, "convert_checkpoint", _convert)

if __name__ == "__main__":
    main()
