"""Self-contained HTML report of a diagnosis, for newcomers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mate3d.atomic import atomic_files
from mate3d.outputs.charts import make_histogram
from mate3d.outputs.page import render_page
from training.data.doctor.findings import Diagnosis, Finding
from training.data.doctor.thumbnails import make_thumbnail
from training.data.format import DatasetFiles, open_files
from training.data.format.remote import is_remote

_MAX_PICTURES = 8
# A fault of most items looks the same everywhere, so fewer images are enough.
_MAX_PICTURES_OF_ALL = 4
_MAX_LISTED = 200


def write_report(diagnosis: Diagnosis, folder: str | Path) -> Path:
    """Write `index.html`, and `findings.json` with all names, to a folder.

    Args:
        folder: Created if missing.

    Returns:
        Path of the page.

    Raises:
        UserError: If the folder cannot be written.
    """
    files = open_files(diagnosis.path)
    page = render_page(
        "dataset_check",
        title=Path(str(diagnosis.path)).name,
        where=str(diagnosis.path),
        verdict=_make_verdict(diagnosis),
        tiles=_make_tiles(diagnosis),
        fixable=[finding.code for finding in diagnosis.findings if finding.kind.fix],
        command=_fix_command(diagnosis),
        findings=[_describe_finding(diagnosis, files, one) for one in diagnosis.findings],
        typical=_make_pictures(diagnosis, files, diagnosis.typical, {}),
        classes=diagnosis.statistics.class_frequencies if diagnosis.label_set else (),
        palette=diagnosis.label_set.palette if diagnosis.label_set else (),
        charts=_make_charts(diagnosis),
        assumed_repairs=any(
            one.code in ("camera_convention", "camera_mirrored") for one in diagnosis.findings
        ),
    )
    with atomic_files(folder) as temporary:
        (temporary / "index.html").write_text(page, encoding="utf-8")
        (temporary / "findings.json").write_text(_to_json(diagnosis), encoding="utf-8")
    return Path(folder) / "index.html"


def _make_verdict(diagnosis: Diagnosis) -> dict[str, str]:
    errors, warnings = diagnosis.by_severity("error"), diagnosis.by_severity("warning")
    headline = f"{_count(len(errors), 'error')}, {_count(len(warnings), 'warning')}."
    if errors:
        kind, advice = "error", "Fix the errors before training on this dataset."
    elif warnings:
        kind, advice = "warning", "Usable for training, but look at the warnings first."
    else:
        kind, headline, advice = "good", "No errors, no warnings.", "Ready for training."
    return {"kind": kind, "headline": headline, "advice": advice}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _make_tiles(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    one = diagnosis.statistics
    kinds = ("images", "masks", "cameras", "captions")
    tiles = [(str(getattr(one, f"num_{name}")), name) for name in kinds]
    tiles.append((diagnosis.label_set.name if diagnosis.label_set else "unknown", "label set"))
    if one.sizes:
        (width, height), _ = one.sizes[0]
        others = len(one.sizes) - 1
        more = f", and {_count(others, 'other size')}" if others else ""
        tiles.append((f"{width} × {height}", f"pixels{more}"))
    if one.distance is not None:
        tiles.append((f"{one.distance:.2f}", "camera distance (median)"))
        tiles.append((f"{one.focal:.2f}", "focal length / image size (median)"))
    if one.num_examined < len(diagnosis.files):
        tiles.append((str(one.num_examined), "items examined, sampled at random"))
    return tiles


def _fix_command(diagnosis: Diagnosis) -> str:
    """Return the command that repairs everything, or "" for a remote dataset."""
    if is_remote(str(diagnosis.path)):
        return ""
    path = Path(str(diagnosis.path))
    output = path.with_name(f"{path.stem}_repaired{path.suffix}")
    return f"python -m scripts.prepare_data check=true data={path} fix=all output={output}"


def _describe_finding(
    diagnosis: Diagnosis, files: DatasetFiles, finding: Finding
) -> dict[str, Any]:
    is_of_most = len(finding.names) > len(diagnosis.files) / 2
    number = _MAX_PICTURES_OF_ALL if is_of_most else _MAX_PICTURES
    shown = [name for name in finding.names if name in diagnosis.files][:number]
    if finding.code.startswith("caption"):
        # Faults of captions are not visible in images.
        shown = []
    return {
        "about": finding,
        "kind": finding.kind,
        "message": finding.comment,
        "extent": _count(len(finding.names), "item") if finding.names else "",
        "pictures": _make_pictures(diagnosis, files, shown, finding.remarks),
        "listed": finding.names[:_MAX_LISTED],
    }


def _make_pictures(
    diagnosis: Diagnosis, files: DatasetFiles, names: Sequence[str], remarks: Mapping[str, str]
) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "uri": make_thumbnail(files, *diagnosis.files[name], diagnosis.label_set),
            "remark": remarks.get(name, ""),
        }
        for name in names
    ]


def _make_charts(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    if not diagnosis.statistics.yaws:
        return []
    yaws = np.degrees(diagnosis.statistics.yaws)
    pitches = np.degrees(diagnosis.statistics.pitches)
    largest = max(np.abs(yaws).max(), np.abs(pitches).max())
    # Frontal datasets would be a thin bar at full scale.
    limit = next((limit for limit in (30.0, 60.0, 90.0) if largest <= limit), 180.0)
    return [
        make_histogram(yaws, limit, "Yaw: number of cameras per horizontal angle"),
        make_histogram(pitches, limit, "Pitch: number of cameras per vertical angle"),
    ]


def _to_json(diagnosis: Diagnosis) -> str:
    findings = [
        {
            **{key: getattr(one.kind, key) for key in ("code", "severity", "fix")},
            **{key: getattr(one, key) for key in ("message", "names", "remarks")},
        }
        for one in diagnosis.findings
    ]
    content = {"findings": findings, "statistics": asdict(diagnosis.statistics)}
    return json.dumps(content, indent=1)
