"""summary.html: a run's progress, pictures, events and settings in one self-contained file."""

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mate3d.atomic import atomic_file
from mate3d.errors import UserError
from mate3d.labels import get_label_set
from mate3d.outputs.charts import Curve, format_value, make_chart
from mate3d.outputs.page import render_page
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
_SPEED = ("Timing/images_per_sec",)
_HIGHER_IS_BETTER = ("Metrics/miou",)
# Repeats of other curves, or not for reading as a curve.
_UNSHOWN = ("Progress/kimg", "Timing/total_sec", "Timing/sec_per_kimg", "Timing/eta_sec")
_BAD_EVENTS = ("rollback", "diverged", "failure")


def write_summary(run_folder: str | Path, command: str = "") -> Path:
    """Write `summary.html` from what the run folder holds; anything may still be missing.

    Args:
        run_folder: Of a run that goes on, was stopped, resumed, or is complete.
        command: What a user types for this run; by default what the checkpoint's card says.

    Returns:
        The page.

    Raises:
        UserError: If it cannot be written.
    """
    folder = Path(run_folder)
    records, events = read_lines(folder / STATS_FILE), read_events(folder)
    config = _read_config(folder / "config.yaml")
    grids = find_grids(folder / "samples")
    curves = _read_curves(records)
    last = _last_values(records)
    marks = [event["images_seen"] for event in events if _is_mark(event)]
    status = _describe_status(records, last, events)
    page = render_page(
        "training_run",
        title=folder.resolve().name,
        where=folder.resolve(),
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        status=status,
        tiles=_make_tiles(curves, last, config),
        resume="" if status["kind"] == "good" else _resume_command(folder, command),
        sections=_make_sections(curves, marks),
        others=_make_charts(_other_names(curves), curves, marks),
        snapshots=_embed_snapshots(grids),
        legend=_make_legend(config),
        events=[_describe_event(event) for event in reversed(events)],
        settings=list(_flatten(config)),
    )
    path = folder / SUMMARY_FILE
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_curves(records: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    points: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        for name, value in record.items():
            if name != "images_seen" and isinstance(value, int | float):
                points.setdefault(name, []).append((record["images_seen"], value))
    curves = {}
    for name, pairs in points.items():
        # Parts of an interrupted run may overlap.
        x, y = np.array(sorted(pairs, key=lambda pair: pair[0]), dtype=float).T
        curves[name] = Curve(x, y)
    return curves


def _last_values(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the latest value of each name."""
    last: dict[str, Any] = {}
    for record in records:
        last |= record
    return last


def _is_mark(event: Mapping[str, Any]) -> bool:
    return event.get("kind") in ("resume", *_BAD_EVENTS) and isinstance(
        event.get("images_seen"), int | float
    )


def _describe_status(
    records: Sequence[Mapping[str, Any]],
    last: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]],
) -> dict[str, str]:
    if not records:
        return {"kind": "note", "headline": "Not a single tick yet.", "advice": ""}
    left = last.get("Timing/eta_sec", math.nan)
    if left == 0:
        return {"kind": "good", "headline": "Complete.", "advice": ""}
    done = f"{last['images_seen'] / 1000:g} thousand images seen"
    pace = last.get("Timing/images_per_sec", math.nan)
    total = last["images_seen"] + left * pace
    if math.isfinite(total) and total > 0:
        done += f", about {100 * last['images_seen'] / total:.0f} %"
    if events and events[-1].get("kind") == "stop":
        return {"kind": "warning", "headline": "Stopped.", "advice": f"{done}."}
    if math.isfinite(left):
        done += f"; at the last tick {format_duration(left)} were left"
    return {"kind": "note", "headline": "Not complete.", "advice": f"{done}."}


def _make_tiles(
    curves: Mapping[str, Curve], last: Mapping[str, Any], config: Mapping[str, Any]
) -> list[tuple[str, str]]:
    tiles = []
    if "images_seen" in last:
        tiles.append((f"{last['images_seen']:,}".replace(",", " "), "images seen"))
    if "Timing/images_per_sec" in last:
        tiles.append((format_value(last["Timing/images_per_sec"]), "images a second"))
    if "Resources/peak_memory_gib" in last:
        tiles.append((f"{last['Resources/peak_memory_gib']:.2f} GiB", "memory, at most"))
    if "Resources/peak_gpu_memory_gib" in last:
        tiles.append((f"{last['Resources/peak_gpu_memory_gib']:.2f} GiB", "GPU memory, at most"))
    for name, curve in curves.items():
        if name.startswith("Metrics/") and curve.has_points:
            best = np.nanargmax if name in _HIGHER_IS_BETTER else np.nanargmin
            index = best(np.where(np.isfinite(curve.y), curve.y, np.nan))
            text = f"best {_title(name)}, at {curve.x[index] / 1000:g} kimg"
            tiles.append((format_value(float(curve.y[index])), text))
    if "data" in config:
        tiles.append((Path(str(config["data"])).name, "data set"))
    return tiles


def _resume_command(folder: Path, command: str) -> str:
    if not command:
        try:
            card = (folder / "checkpoint" / "card.md").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            card = ""
        match = re.search(r"^- command: `(.+)`$", card, re.MULTILINE)
        command = match[1] if match else ""
    if not command:
        return ""
    words = [word for word in shlex.split(command) if not word.startswith("resume=")]
    return shlex.join([*words, "resume=true"])


def _make_sections(curves: Mapping[str, Curve], marks: Sequence[float]) -> list[dict[str, Any]]:
    metrics = [name for name in curves if name.startswith("Metrics/")]
    losses = [name for name in curves if _is_loss(name)]
    rest = [name for name in curves if name.startswith(("Augment/", "Progress/"))]
    changing = [name for name in rest if name not in _UNSHOWN and np.ptp(curves[name].y) > 0]
    memory = [name for name in curves if name.startswith("Resources/")]
    adversarial = {
        title: curves[name]
        for title, name in _ADVERSARIAL.items()
        if name in curves and curves[name].has_points
    }
    joint = []
    if adversarial:
        title = "generator and discriminators"
        joint = [make_chart(title, adversarial, marks=marks, **_LOSS_STYLE)]
    sections = [
        ("Quality", _make_charts(metrics, curves, marks, with_dots=True, with_log=True)),
        ("Losses", joint + _make_charts(losses, curves, marks, **_LOSS_STYLE)),
        ("Schedules and augmentation", _make_charts(changing, curves, marks)),
        ("Speed and memory", _make_charts([*_SPEED, *memory], curves, marks)),
    ]
    return [{"title": title, "charts": charts} for title, charts in sections if charts]


def _is_loss(name: str) -> bool:
    """Tell raw losses and the width beta from weighted copies, logits and signs."""
    if name in _ADVERSARIAL.values() or not name.startswith("Loss/"):
        return False
    return not name.endswith("/weighted") and not name.startswith(
        ("Loss/scores/", "Loss/signs/", "Loss/D/reg")
    )


def _other_names(curves: Mapping[str, Curve]) -> list[str]:
    shown = ("Metrics/", "Resources/", *_SPEED, *_UNSHOWN, *_ADVERSARIAL.values())
    return [name for name in curves if not name.startswith(shown) and not _is_loss(name)]


def _make_charts(
    names: Sequence[str], curves: Mapping[str, Curve], marks: Sequence[float], **style: bool
) -> list[dict[str, Any]]:
    return [
        make_chart(_title(name), {"": curves[name]}, marks=marks, **style)
        for name in names
        if name in curves and curves[name].has_points
    ]


def _title(name: str) -> str:
    """Drop the group's name and the word that only tells raw from weighted."""
    group, _, rest = name.partition("/")
    short = rest if group in ("Metrics", "Loss", "Timing", "Resources", "Progress") else name
    return short.removesuffix("/loss").replace("_", " ")


def _embed_snapshots(grids: Mapping[int, Mapping[str, Path]]) -> list[dict[str, Any]]:
    """Return latest and first samples, and the real pictures to compare with."""
    rendered = {images: one for images, one in grids.items() if "image" in one}
    snapshots = []
    if rendered:
        newest, oldest = max(rendered), min(rendered)
        snapshots.append((f"Samples now, at {newest / 1000:g} kimg", rendered[newest]))
        if oldest != newest:
            snapshots.append((f"The same heads at {oldest / 1000:g} kimg", rendered[oldest]))
    real = {name: path for one in grids.values() for name, path in one.items() if "real" in name}
    if real:
        snapshots.append(("Data", real))
    return [{"title": title, "pictures": embed_grids(paths.items())} for title, paths in snapshots]


def _make_legend(config: Mapping[str, Any]) -> list[tuple[str, tuple[int, int, int]]]:
    """Return names and colours of the classes."""
    try:
        label_set = get_label_set(str(config["model"]["generator"]["label_set"]))
    except (KeyError, TypeError, UserError):
        return []
    return list(zip(label_set.class_names, label_set.palette, strict=True))


def _describe_event(event: Mapping[str, Any]) -> dict[str, Any]:
    known = ("time", "kind", "images_seen", "reason")
    return {
        **{name: event.get(name, "") for name in known},
        "more": ", ".join(f"{name}={value}" for name, value in event.items() if name not in known),
        "is_bad": event.get("kind") in _BAD_EVENTS,
    }


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every option with its dotted name, as it is typed on the command line."""
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
