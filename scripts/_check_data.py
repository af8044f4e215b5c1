"""`prepare_data check=true`: tell what is wrong with a data set, and write a repaired copy."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from scripts._prepare_options import PrepareOptions
from training.data.doctor import check_dataset, exit_code, fix_dataset, write_report

_logger = logging.getLogger(__name__)

_MAX_TOLD = 3


def check_data(options: PrepareOptions) -> None:
    """Check `data`, or repair it and check the copy; exit with 1 if there are findings."""
    path = options.data
    shared = {"label_set": options.label_set, "num_workers": options.num_workers}
    if options.fix is not None:
        _repair(options, shared)
        path = options.output
    with _progress_bar("checking") as progress:
        diagnosis = check_dataset(
            path, max_images=options.check_images, progress=progress, **shared
        )
    for finding in diagnosis.findings:
        _logger.info("%s %s: %s", finding.severity, finding.code, finding.message)
        for name in finding.names[:_MAX_TOLD]:
            remark = finding.remarks.get(name)
            _logger.info("    %s%s", name, f" ({remark})" if remark else "")
        if len(finding.names) > _MAX_TOLD:
            _logger.info("    ... and %d more", len(finding.names) - _MAX_TOLD)
    page = write_report(diagnosis, options.paths.run_folder)
    code = exit_code(diagnosis)
    _logger.info("%s; report: %s", "faults found" if code else "no faults found", page)
    if code:
        sys.exit(code)


def _repair(options: PrepareOptions, shared: dict[str, Any]) -> None:
    with _progress_bar("repairing") as progress:
        result = fix_dataset(
            options.data,
            "all" if options.fix == ("all",) else options.fix,
            options.output,
            overwrite=options.overwrite,
            shard_size=options.shard_size,
            progress=progress,
            **shared,
        )
    _logger.info("wrote %d images to %s", result.num_written, result.output)
    for action, count in result.repaired.items():
        _logger.info("    %d: %s", count, action)
    for name, reason in result.dropped.items():
        _logger.debug("left out %s: %s", name, reason)
    if result.dropped:
        name, reason = next(iter(result.dropped.items()))
        _logger.info("    left out %d, such as %s: %s", len(result.dropped), name, reason)


@contextmanager
def _progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows finished and all items; a new round starts from the left."""
    bars: list[tqdm] = []

    def show(finished: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(unit="img", desc=what))
        bars[0].total, bars[0].n = total, finished
        bars[0].refresh()

    try:
        yield show
    finally:
        for bar in bars:
            bar.close()
