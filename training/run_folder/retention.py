"""Keep the newest and the best checkpoints of a run."""

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mate3d.atomic import atomic_file, atomic_folder, remove_folder
from training.run_folder.safety import CHECKPOINTS_FOLDER, SafetySettings

CHECKPOINT_FOLDER = "checkpoint"
METRICS_FILE = "metrics.json"
_PREFIX = "Metrics/"
_LARGER_IS_BETTER = ("miou",)

MetricsByImages = dict[int, dict[str, float]]


def keep_checkpoints(
    run_folder: Path, images_seen: int, metrics: Mapping[str, float], settings: SafetySettings
) -> None:
    """Add the newest checkpoint to `checkpoints/`, and remove those that are no longer needed.

    Weights are hard links where possible, so they take space only once. Metrics are stored in
    `checkpoints/metrics.json`. Call this after writing `checkpoint/` and before writing the
    training state; the resumed run then repairs the effects of a kill in between.

    Args:
        run_folder: Holds `checkpoint/`.
        metrics: Logged values, including the metrics of the snapshot; may be empty.

    Raises:
        UserError: If a file cannot be written or removed.
    """
    if settings.keep_last == 0 and settings.keep_best == 0:
        return
    folder = run_folder / CHECKPOINTS_FOLDER
    with atomic_folder(folder / f"{images_seen:09d}") as temporary:
        for path in (run_folder / CHECKPOINT_FOLDER).iterdir():
            _link_or_copy(path, temporary / path.name)
    measured = _read_metrics(folder)
    measured[images_seen] = {
        name.removeprefix(_PREFIX): value
        for name, value in metrics.items()
        if name.startswith(_PREFIX) and math.isfinite(value)
    }
    present = {
        int(path.name): path for path in folder.iterdir() if re.fullmatch(r"\d{9,}", path.name)
    }
    measured = {images: values for images, values in measured.items() if images in present}
    kept = _kept(present.keys(), images_seen, measured, settings)
    with atomic_file(folder / METRICS_FILE) as temporary:
        document = {f"{images:09d}": measured.get(images, {}) for images in sorted(kept)}
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for images in present.keys() - kept:
        remove_folder(present[images])


def rank_checkpoints(measured: MetricsByImages, best_metric: str) -> list[int]:
    """Return the images seen of all measured checkpoints, the best first.

    Args:
        measured: Metrics by images seen.
        best_metric: See `SafetySettings`. With several feature networks, the last one counts.
    """
    names = [
        name
        for images in sorted(measured)
        for name in measured[images]
        if name == best_metric or name.startswith(f"{best_metric}_")
    ]
    if not names:
        return []
    sign = -1 if best_metric in _LARGER_IS_BETTER else 1
    scores = {
        images: sign * values[names[-1]]
        for images, values in measured.items()
        if names[-1] in values
    }
    # Among equals, the one trained longer comes first.
    return sorted(scores, key=lambda images: (scores[images], -images))


def _kept(
    present: set[int], images_seen: int, measured: MetricsByImages, settings: SafetySettings
) -> set[int]:
    if settings.keep_last is None:
        return set(present)
    # Later ones were written before a rollback.
    newest = sorted((images for images in present if images <= images_seen), reverse=True)
    best = rank_checkpoints(measured, settings.best_metric)
    return {*newest[: settings.keep_last], *best[: settings.keep_best]}


def _read_metrics(folder: Path) -> MetricsByImages:
    try:
        document = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        return {int(images): dict(values) for images, values in document.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        # Missing at first. Without it, the best ones are only chosen from new checkpoints.
        return {}


def _link_or_copy(source: Path, target: Path) -> None:
    """Link weights, which are never edited in place; copy text files."""
    if source.suffix == ".safetensors":
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)
