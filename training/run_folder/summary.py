"""summary.html: progress, images, events and settings of a run in one self-contained file."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mate3d.atomic import atomic_file
from mate3d.errors import UserError
from mate3d.labels import get_label_set
from mate3d.outputs.charts import format_value, make_chart
from mate3d.outputs.page import render_page
from training.run_folder.careful_loop import resume_command
from training.run_folder.events import read_events
from training.run_folder.json_lines import STATS_FILE, read_lines
from training.run_folder.pictures import embed_grids, find_grids

SUMMARY_FILE = "summary.html"

_ADVERSARIAL = {
    "generator": "Loss/G/loss",
    "images": "Loss/D/loss",
    "images and masks": "Loss/D/loss_semantic",
}
_LOSS_STYLE = {"with_log": True, "with_smoothing": True}
_HIGHER_IS_BETTER = ("Metrics/miou",)
# Repeats of other curves, or not useful as a curve.
_UNSHOWN = ("Progress/kimg", "Timing/total_sec", "Timing/sec_per_kimg", "Timing/eta_sec")
_TILES = {
    "images_seen": (lambda value: f"{value:,}".replace(",", " "), "images seen"),
    "Timing/images_per_sec": (format_value, "images per second"),
    "Resources/peak_memory_gib": ("{:.2f} GiB".format, "peak memory"),
    "Resources/peak_gpu_memory_gib": ("{:.2f} GiB".format, "peak GPU memory"),
}
_BAD_EVENTS = ("rollback", "diverged", "failure")


def write_summary(run_folder: str | Path, command: str = "") -> Path:
    """Write `summary.html` from the files of a run folder, all of which may be missing.

    Args:
        run_folder: Folder of a running, stopped, resumed or complete run.
        command: Starts this run; by default the command on the checkpoint's card.

    Returns:
        Path of the page.

    Raises:
        UserError: If it cannot be written.
    """
    folder = Path(run_folder)
    records, events = read_lines(folder / STATS_FILE), read_events(folder)
    config = _read_config(folder / "config.yaml")
    curves = _read_curves(records)
    # The latest value of each name.
    last = {name: value for record in records for name, value in record.items()}
    kind, headline, advice = _describe_status(last, events)
    marks = [event["images_seen"] for event in events if event["kind"] in ("resume", *_BAD_EVENTS)]
    page = render_page(
        "training_run",
        title=folder.resolve().name,
        where=folder.resolve(),
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        status={"kind": kind, "headline": headline, "advice": advice},
        tiles=_make_tiles(curves, last, config),
        resume="" if kind == "good" else _resume_command(folder, command),
        sections=_make_sections(curves, marks),
        snapshots=_embed_snapshots(folder / "samples"),
        legend=_make_legend(config),
        events=events,
        bad_events=_BAD_EVENTS,
        settings=list(_flatten(config)),
    )
    with atomic_file(folder / SUMMARY_FILE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / SUMMARY_FILE


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_curves(
    records: Sequence[Mapping[str, Any]],
) -> dict[str, np.ndarray]:  # name -> [2, N]: images seen, ascending, and finite values
    points: dict[str, list[tuple[float, float]]] = {}
    # Parts of an interrupted run may overlap.
    for record in sorted(records, key=lambda record: record["images_seen"]):
        for name, value in record.items():
            if name != "images_seen" and isinstance(value, int | float) and math.isfinite(value):
                points.setdefault(name, []).append((record["images_seen"], value))
    return {name: np.array(pairs, dtype=float).T for name, pairs in points.items()}


def _describe_status(
    last: Mapping[str, Any], events: Sequence[Mapping[str, Any]]
) -> tuple[str, str, str]:
    """Return the kind of the status box, a headline, and the progress of the run."""
    if not last:
        return "note", "No tick yet.", ""
    left, images = last.get("Timing/eta_sec", math.nan), last["images_seen"]
    if left == 0:
        return "good", "Complete.", ""
    done = f"{images / 1000:g} thousand images seen"
    total = images + left * last.get("Timing/images_per_sec", math.nan)
    if math.isfinite(total) and total > 0:
        done += f", about {100 * images / total:.0f} %"
    if events and events[-1]["kind"] == "stop":
        return "warning", "Stopped.", f"{done}."
    if math.isfinite(left):
        done += f"; {format_duration(left)} left at the last tick"
    return "note", "Not complete.", f"{done}."


def _make_tiles(
    curves: Mapping[str, np.ndarray], last: Mapping[str, Any], config: Mapping[str, Any]
) -> list[tuple[str, str]]:
    tiles = [(show(last[name]), text) for name, (show, text) in _TILES.items() if name in last]
    for name, (images, values) in curves.items():
        if name.startswith("Metrics/"):
            index = values.argmax() if name in _HIGHER_IS_BETTER else values.argmin()
            text = f"best {_title(name)}, at {images[index] / 1000:g} kimg"
            tiles.append((format_value(values[index]), text))
    if "data" in config:
        tiles.append((Path(str(config["data"])).name, "dataset"))
    return tiles


def _resume_command(folder: Path, command: str) -> str:
    if not command:
        try:
            card = (folder / "checkpoint" / "card.md").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""
        command = (re.findall(r"^- command: `(.+)`$", card, re.MULTILINE) or [""])[0]
    return resume_command(command)


def _make_sections(
    curves: Mapping[str, np.ndarray], marks: Sequence[float]
) -> dict[str, list[dict[str, Any]]]:
    """Return charts by title; the last section has all remaining values."""
    rest = {name: curve for name, curve in curves.items() if name not in _UNSHOWN}
    joint = {title: rest.pop(name) for title, name in _ADVERSARIAL.items() if name in rest}

    def take(belongs: Callable[[str], bool], **style: bool) -> list[dict[str, Any]]:
        chosen = {name: rest.pop(name) for name in list(rest) if belongs(name)}
        return [
            make_chart(_title(name), {"": curve}, marks=marks, **style)
            for name, curve in chosen.items()
        ]

    losses = take(_is_loss, **_LOSS_STYLE)
    if joint:
        title = "generator and discriminators"
        losses.insert(0, make_chart(title, joint, marks=marks, **_LOSS_STYLE))
    return {
        "Quality": take(lambda name: name.startswith("Metrics/"), with_dots=True, with_log=True),
        "Losses": losses,
        "Schedules and augmentation": take(
            lambda name: name.startswith(("Augment/", "Progress/")) and np.ptp(rest[name][1]) > 0
        ),
        "Speed and memory": take(lambda name: name.startswith(("Timing/", "Resources/"))),
        "All other values": take(lambda _: True),
    }


def _is_loss(name: str) -> bool:
    """Distinguish raw losses and beta from weighted copies, logits and signs."""
    others = ("Loss/scores/", "Loss/signs/", "Loss/D/reg")
    return (
        name.startswith("Loss/") and not name.endswith("/weighted") and not name.startswith(others)
    )


def _title(name: str) -> str:
    """Drop the name of the group, and the word that marks raw values."""
    group, _, rest = name.partition("/")
    short = rest if group in ("Metrics", "Loss", "Timing", "Resources", "Progress") else name
    return short.removesuffix("/loss").replace("_", " ")


def _embed_snapshots(folder: Path) -> list[dict[str, Any]]:
    """Return the latest and first samples, and real images for comparison."""
    grids, snapshots = find_grids(folder), {}
    rendered = [images for images, one in grids.items() if "image" in one]
    if rendered:
        newest, oldest = rendered[-1], rendered[0]
        snapshots[f"Samples now, at {newest / 1000:g} kimg"] = grids[newest]
        if oldest != newest:
            snapshots[f"The same heads at {oldest / 1000:g} kimg"] = grids[oldest]
    real = {name: path for one in grids.values() for name, path in one.items() if "real" in name}
    if real:
        snapshots["Data"] = real
    return [{"title": title, "pictures": embed_grids(one)} for title, one in snapshots.items()]


def _make_legend(config: Mapping[str, Any]) -> list[tuple[str, tuple[int, int, int]]]:
    """Return names and colours of the classes."""
    try:
        label_set = get_label_set(str(config["model"]["generator"]["label_set"]))
    except (KeyError, TypeError, UserError):
        return []
    return list(zip(label_set.class_names, label_set.palette, strict=True))


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every option with its dotted name, in command-line syntax."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
            yield f"{prefix}{name}", text.removesuffix("...\n").strip()


def format_duration(seconds: float) -> str:
    """Return a duration with its two largest units: 3d 04h, 5h 06m, 7m 08s, 9s."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02d}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"
