"""Prepare a dataset: make samples, stage them on disk, and write all of them at the end."""

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from mate3d.errors import UserError
from torch_utils.stages import stage
from training.data.format import DatasetWriter
from training.data.preparation.rebalancing import balancing_repeats
from training.data.preparation.samples import FailedSample, Job, Maker
from training.data.preparation.staging import open_staging
from training.data.workers import map_by_workers

_logger = logging.getLogger(__name__)
# Failures shown one by one on the console; the log and the dataset contain all of them.
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
) -> list[FailedSample]:
    """Make all samples not yet made by an earlier, interrupted call, then write the dataset.

    Args:
        jobs: All samples of the dataset.
        writer: Writer of the dataset, not yet entered.
        settings: Everything the samples depend on, as JSON values; stored with the dataset.
        restart: Discard the samples of an interrupted preparation.
        max_repeats: Maximum repeats of rare yaw angles; 1 keeps the samples' own repeats.
        num_workers: Worker processes; 0 works in this process.
        unusable: Failures found earlier; stored with the others.

    Returns:
        All failed samples, `unusable` ones first.

    Raises:
        UserError: If the output cannot be written, or no sample could be made.
    """
    failed = list(unusable)
    versions = {name: job.version for job in jobs for name in job.names}
    with open_staging(writer.path, settings, versions, restart=restart) as staging:
        missing = [job for job in jobs if not all(name in staging for name in job.names)]
        num_missing = sum(len(job.names) for job in missing)
        if num_missing < len(versions):
            _logger.info("resuming: %d samples are already done", len(versions) - num_missing)
        try:
            with stage("Preparing images", num_missing) as bar:
                for made in chain.from_iterable(map_by_workers(maker, missing, num_workers)):
                    if isinstance(made, FailedSample):
                        _logger.debug("%s: %s", made.name, made.reason)
                        failed.append(made)
                    else:
                        staging.add(made)
                    bar.update()
        except BaseException:
            if staging.names:
                _logger.info(
                    "run the same command again to resume after %d samples", len(staging.names)
                )
            else:
                staging.discard()
            raise
        _tell_failures(failed)
        if not staging.names:
            staging.discard()
            reason = "there is nothing to prepare"
            if failed:
                reason = f"all {len(failed)} failed, first {failed[0].name}: {failed[0].reason}"
            raise UserError(f"no samples for {writer.path}: {reason}")
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
        _logger.warning("... and %d more; see the log", len(failed) - _MAX_TOLD)
