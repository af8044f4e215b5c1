"""`prepare_data check=true`: tell what is wrong with a data set, and write a repaired copy."""

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from omegaconf import DictConfig, ListConfig
from tqdm import tqdm

from mate3d.labels import LabelSet, get_mask_label_set
from training.data.doctor.check import check_dataset
from training.data.doctor.findings import exit_code
from training.data.doctor.fixes import FixResult, fix_dataset
from training.data.doctor.report import write_report

_logger = logging.getLogger(__name__)

_MAX_TOLD = 3


def check_data(config: DictConfig) -> None:
    """Check `data`, or repair it and check the copy; exit with 1 if there are findings."""
    path = str(config.data)
    if config.fix is not None:
        _repair(config)
        path = config.output
    with _progress_bar("checking") as progress:
        diagnosis = check_dataset(
            path,
            label_set=_read_label_set(config),
            max_images=config.check_images,
            num_workers=config.num_workers,
            progress=progress,
        )
    for finding in diagnosis.findings:
        _logger.info("%s %s: %s", finding.severity, finding.code, finding.message)
        for name in finding.names[:_MAX_TOLD]:
            remark = finding.remarks.get(name)
            _logger.info("    %s%s", name, f" ({remark})" if remark else "")
        if len(finding.names) > _MAX_TOLD:
            _logger.info("    ... and %d more", len(finding.names) - _MAX_TOLD)
    page = write_report(diagnosis, config.paths.run_folder)
    code = exit_code(diagnosis)
    _logger.info("%s; report: %s", "faults found" if code else "no faults found", page)
    if code:
        sys.exit(code)


def _repair(config: DictConfig) -> None:
    with _progress_bar("repairing") as progress:
        result = fix_dataset(
            str(config.data),
            _read_codes(config.fix),
            config.output,
            label_set=_read_label_set(config),
            overwrite=config.overwrite,
            shard_size=config.shard_size,
            num_workers=config.num_workers,
            progress=progress,
        )
    _tell_repairs(result)


def _read_codes(fix: str | ListConfig) -> Sequence[str] | Literal["all"]:
    if isinstance(fix, ListConfig):
        return [str(code) for code in fix]
    return "all" if fix == "all" else [code.strip() for code in str(fix).split(",")]


def _read_label_set(config: DictConfig) -> LabelSet | None:
    return None if config.label_set is None else get_mask_label_set(str(config.label_set))


def _tell_repairs(result: FixResult) -> None:
    _logger.info("wrote %d images to %s", result.num_written, result.output)
    actions = Counter(action for done in result.changed.values() for action in done)
    for action, count in actions.most_common():
        _logger.info("    %d: %s", count, action)
    for name, reason in result.dropped.items():
        _logger.debug("left out %s: %s", name, reason)
    if result.dropped:
        name, reason = next(iter(result.dropped.items()))
        _logger.info("    left out %d, such as %s: %s", len(result.dropped), name, reason)


@contextmanager
def _progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows finished and all items; a new round starts from the left."""
    with tqdm(unit="img", desc=what) as bar:

        def show(finished: int, total: int) -> None:
            bar.total, bar.n = total, finished
            bar.refresh()

        yield show
