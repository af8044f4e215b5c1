"""`prepare_data check=true`: report the problems of a dataset, and write a repaired copy."""

import logging
import sys
from typing import Any

from scripts._prepare_options import PrepareOptions
from torch_utils.stages import stage
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
    diagnosis = check_dataset(path, max_images=options.check_images, **shared)
    for finding in diagnosis.findings:
        _logger.info("%s %s: %s", finding.kind.severity, finding.code, finding.message)
        for name in finding.names[:_MAX_TOLD]:
            remark = finding.remarks.get(name)
            _logger.info("    %s%s", name, f" ({remark})" if remark else "")
        if len(finding.names) > _MAX_TOLD:
            _logger.info("    ... and %d more", len(finding.names) - _MAX_TOLD)
    with stage("Writing the report"):
        page = write_report(diagnosis, options.paths.run_folder)
    code = exit_code(diagnosis)
    _logger.info("%s; report: %s", "problems found" if code else "no problems found", page)
    if code:
        sys.exit(code)


def _repair(options: PrepareOptions, shared: dict[str, Any]) -> None:
    result = fix_dataset(
        options.data,
        "all" if options.fix == ("all",) else options.fix,
        options.output,
        overwrite=options.overwrite,
        shard_size=options.shard_size,
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
