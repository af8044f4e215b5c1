"""Which checkpoints a run keeps: the newest ones and the best ones."""

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
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
    """Keep the run's newest checkpoint in `checkpoints/`, and remove what the rule does not keep.

    Weights are linked where the file system can, so they take their room once. What was measured
    is in `checkpoints/metrics.json`. Call this after `checkpoint/` was written and before the
    training state: a kill in between is made good by the resumed run.

    Args:
        run_folder: Holds `checkpoint/`.
        images_seen: Names the folder.
        metrics: Values as they are logged, those of the snapshot among them; may be empty.
        settings: The rule.

    Raises:
        UserError: If something cannot be written or removed.
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
    """Return those that were measured, by images seen, the best one first.

    Args:
        measured: Values by images seen.
        best_metric: See `SafetySettings`; of several feature networks the one that measured last.
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
    # Of equal ones, the one trained longer.
    return sorted(scores, key=lambda images: (scores[images], -images))


def _kept(
    present: set[int], images_seen: int, measured: MetricsByImages, settings: SafetySettings
) -> set[int]:
    if settings.keep_last is None:
        return set(present)
    # Ahead of the run lies what it wrote before it went back.
    newest = sorted((images for images in present if images <= images_seen), reverse=True)
    best = rank_checkpoints(measured, settings.best_metric)
    return {*newest[: settings.keep_last], *best[: settings.keep_best]}


def _read_metrics(folder: Path) -> MetricsByImages:
    try:
        document = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        return {int(images): dict(values) for images, values in document.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        # Missing at first; without it only the rule for the best ones starts anew.
        return {}


def _link_or_copy(source: Path, target: Path) -> None:
    """Link weights, which nobody edits in place; copy texts."""
    if source.suffix == ".safetensors":
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)
