"""Prepare a data set: make samples, keep them while it takes, write all of them at the end."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from mate3d.errors import UserError
from training.data.format import DatasetWriter
from training.data.preparation.rebalancing import balancing_repeats
from training.data.preparation.samples import FailedSample, Job, Maker
from training.data.preparation.staging import open_staging
from training.data.workers import map_by_workers

_logger = logging.getLogger(__name__)
# Failures that are told one by one on the console; the log and the data set have all of them.
_MAX_TOLD = 5


def prepare_dataset(
    jobs: Sequence[Job],
    maker: Maker,
    writer: DatasetWriter,
    settings: Mapping[str, Any],
    *,
    restart: bool = False,
    max_repeats: int = 1,
    num_workers: int = 0,
    unusable: Sequence[FailedSample] = (),
    on_progress: Callable[[int], None] = lambda count: None,
) -> list[FailedSample]:
    """Make the samples that an earlier, interrupted call has not made; then write the data set.

    Args:
        jobs: All samples of the data set.
        maker: Makes them.
        writer: Writes them, not entered yet.
        settings: All that the samples depend on, JSON values; stored with the data set.
        restart: Discard what an interrupted preparation has done.
        max_repeats: How often rare yaw angles may be repeated; 1 leaves repeats as they are.
        num_workers: Processes that make samples; 0 makes them in this one.
        unusable: What was found before the work; stored with the failures.
        on_progress: Called with the number of samples that are ready or have failed since.

    Returns:
        All samples that failed, `unusable` ones first.

    Raises:
        UserError: If the output cannot be written, or no sample could be made.
    """
    failed = list(unusable)
    versions = {name: job.version for job in jobs for name in job.names}
    with open_staging(writer.path, settings, versions, restart=restart) as staging:
        missing = [job for job in jobs if not all(name in staging for name in job.names)]
        num_ready = sum(len(job.names) for job in jobs) - sum(len(job.names) for job in missing)
        if num_ready:
            _logger.info("going on: %d samples are ready", num_ready)
            on_progress(num_ready)
        try:
            for made in chain.from_iterable(map_by_workers(maker, missing, num_workers)):
                if isinstance(made, FailedSample):
                    _logger.debug("%s: %s", made.name, made.reason)
                    failed.append(made)
                else:
                    staging.add(made)
                on_progress(1)
        except BaseException:
            if staging.names:
                _logger.info("the same command goes on after %d samples", len(staging.names))
            else:
                staging.discard()
            raise
        _tell_failures(failed)
        if not staging.names:
            staging.discard()
            raise UserError(f"no sample of {writer.path} could be made; {_first(failed)}")
        repeats = balancing_repeats(staging.cameras, max_repeats) if max_repeats > 1 else None
        with writer:
            staging.write_to(writer, repeats)
            writer.describe({**settings, "failed": list(map(list, failed))})
        staging.discard()
    return failed


def _tell_failures(failed: Sequence[FailedSample]) -> None:
    for one in failed[:_MAX_TOLD]:
        _logger.warning("left out %s: %s", one.name, one.reason)
    if len(failed) > _MAX_TOLD:
        _logger.warning("... and %d more; the log has all", len(failed) - _MAX_TOLD)


def _first(failed: Sequence[FailedSample]) -> str:
    if not failed:
        return "there is nothing to prepare"
    reason, count = Counter(map(_reason_without_file, failed)).most_common(1)[0]
    return f"{len(failed)} failed, most often ({count}): {reason}"


def _reason_without_file(failed: FailedSample) -> str:
    """Return the reason without the sample's own file, so that equal reasons count together."""
    stem = re.escape(PurePosixPath(failed.name).stem)
    return re.sub(rf"\S*\b{stem}\.\w+", "...", failed.reason)
