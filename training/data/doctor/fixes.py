"""Write a repaired copy of a data set."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mate3d.errors import UserError
from mate3d.labels import LabelSet
from training.data.doctor.camera_repairs import REPAIRS
from training.data.doctor.catalogue import CATALOGUE, FIXABLE_CODES
from training.data.doctor.check import check_dataset
from training.data.doctor.examination import Progress
from training.data.doctor.findings import Diagnosis, Finding
from training.data.doctor.repairs import (
    PIXEL_CODES,
    RepairedFiles,
    RepairPlan,
    Step,
    repair_files,
)
from training.data.format import DatasetFiles, DatasetWriter, open_files
from training.data.format.index import VALUE_RULES
from training.data.workers import map_by_workers

# Repairs that leave an item out.
_DROPS = (
    "name_unsafe",
    "image_without_mask",
    "mask_without_image",
    "image_without_camera",
    "image_unreadable",
    "image_blank",
    "image_duplicate",
    "mask_unreadable",
    "mask_lossy",
    "mask_foreign_colors",
    "mask_binary",
    "mask_empty",
    "mask_duplicate",
    "upside_down",
    "camera_invalid",
    "camera_intrinsics",
    "camera_not_rotation",
)
# Faults that the format on disk cannot hold, so that nothing can be written without their repair.
_BLOCKING = (
    "label_set_missing",
    "label_set_unknown",
    "convention_missing",
    "convention_unknown",
    "name_duplicate",
    "name_mismatch",
    "name_unsafe",
    "image_without_mask",
    "mask_without_image",
    "image_without_camera",
    "image_format",
    "image_unreadable",
    "image_mode",
    "image_not_square",
    "image_size",
    "mask_unreadable",
    "mask_size",
    "mask_colors",
    "mask_blended_colors",
    "mask_foreign_colors",
    "mask_grey_channels",
    "mask_depth",
    "mask_palette_order",
    "mask_binary",
    "mask_multiplied",
    "mask_one_based",
    "mask_unknown_ids",
    "camera_invalid",
)


@dataclass(frozen=True)
class FixResult:
    """What a repair did.

    Args:
        output: The new data set.
        num_written: Its items.
        changed: What was done to an item, by name; items that are not here were copied.
        dropped: Why an item was left out, by name.
    """

    output: Path
    num_written: int
    changed: Mapping[str, tuple[str, ...]]
    dropped: Mapping[str, str]


def fix_dataset(
    path: str | Path,
    fixes: Sequence[str] | Literal["all"],
    output: str | Path,
    *,
    label_set: LabelSet | str | None = None,
    overwrite: bool = False,
    shard_size: int | None = None,
    num_workers: int = 0,
    progress: Progress | None = None,
) -> FixResult:
    """Examine a data set completely and write a repaired copy; the original stays as it is.

    Args:
        path: The data set.
        fixes: Codes of the findings to repair, or "all".
        output: Where the copy goes: a folder or a .zip.
        label_set: Meaning of the ids where `dataset.json` does not tell.
        overwrite: Replace a data set at `output`.
        shard_size: Samples of a tar shard; None writes single files.
        num_workers: Processes that examine and repair; 0 works in this one.
        progress: Called with finished and all items, first of the examination, then of the copy.

    Raises:
        UserError: If a code is unknown or has no repair, a fault that is not to be repaired keeps
            the copy from being written, nothing would be left, or `output` is `path`.
    """
    codes = _check_codes(fixes)
    if Path(output).resolve() == Path(path).resolve():
        raise UserError(f"output {output} is the data set itself; repairs go to a new one")
    diagnosis = check_dataset(path, label_set=label_set, num_workers=num_workers, progress=progress)
    chosen = [f for f in diagnosis.findings if f.code in codes and f.fix is not None]
    dropped = _find_dropped(chosen)
    names = [name for name in diagnosis.files if name not in dropped]
    _require_writable(diagnosis, chosen, names)
    findings_of = _group_by_name(chosen)
    plans = [_plan_item(diagnosis, findings_of[name], name) for name in names]
    cameras = {name: _repair_camera(diagnosis, findings_of[name], name) for name in names}
    actions = {name: _list_actions(findings_of[name]) for name in names}
    writer = DatasetWriter(output, diagnosis.label_set, overwrite=overwrite, shard_size=shard_size)
    num_written = 0
    with writer:
        repaired = _repair_all(open_files(path), diagnosis.label_set, plans, num_workers)
        for done, item in enumerate(repaired, start=1):
            if item.refusal:
                dropped[item.name] = item.refusal
            else:
                _write(writer, diagnosis, item, cameras[item.name])
                num_written += 1
            if progress is not None:
                progress(done, len(plans))
        if num_written == 0:
            raise UserError(_nothing_left(diagnosis, dropped))
        writer.describe(_describe(diagnosis, chosen, dropped))
    changed = {name: done for name, done in actions.items() if done and name not in dropped}
    return FixResult(Path(output), num_written, changed, dropped)


def _check_codes(fixes: Sequence[str] | Literal["all"]) -> frozenset[str]:
    if fixes == "all":
        return frozenset(FIXABLE_CODES)
    codes = [fixes] if isinstance(fixes, str) else list(fixes)
    unknown = [code for code in codes if code not in FIXABLE_CODES]
    if unknown:
        is_known = unknown[0] in CATALOGUE
        problem = "has no repair" if is_known else "is no finding"
        raise UserError(f"fix '{unknown[0]}' {problem}; use all or: {', '.join(FIXABLE_CODES)}")
    return frozenset(codes)


def _find_dropped(chosen: Sequence[Finding]) -> dict[str, str]:
    dropped: dict[str, str] = {}
    for finding in chosen:
        names = finding.names if finding.code in _DROPS else ()
        if finding.code == "name_duplicate":
            names = finding.details["different"]
        if finding.code == "camera_distance" and "factor" not in finding.details:
            names = finding.names
        for name in names:
            remark = finding.remarks.get(name)
            dropped.setdefault(name, f"{finding.code}: {remark}" if remark else finding.code)
    return dropped


def _require_writable(
    diagnosis: Diagnosis, chosen: Sequence[Finding], names: Sequence[str]
) -> None:
    """Raise if a fault that nobody repairs keeps the rest from being written."""
    for code in ("index_missing", "index_invalid"):
        if diagnosis.find(code) is not None:
            raise UserError(
                f"data set {diagnosis.path} cannot be repaired: {diagnosis.find(code).message}, so "
                "its cameras are lost; prepare it again from images and masks"
            )
    if diagnosis.label_set is None:
        raise UserError(
            f"data set {diagnosis.path} does not name a known label set; give label_set="
        )
    left = set(names)
    open_codes = [
        finding.code
        for finding in diagnosis.findings
        if finding.code in _BLOCKING
        and finding not in chosen
        and (not finding.names or left & set(finding.names))
    ]
    if open_codes:
        raise UserError(
            f"data set {diagnosis.path} cannot be written while it has {', '.join(open_codes)}; "
            "add them to fix, or use fix=all"
        )
    if not names:
        raise UserError(_nothing_left(diagnosis, _find_dropped(chosen)))


def _nothing_left(diagnosis: Diagnosis, dropped: Mapping[str, str]) -> str:
    reasons = sorted({reason.split(":")[0] for reason in dropped.values()})
    return f"nothing of data set {diagnosis.path} would be left; dropped for {', '.join(reasons)}"


def _group_by_name(chosen: Sequence[Finding]) -> Mapping[str, dict[str, Finding]]:
    """Return the findings of each item by code."""
    findings_of: dict[str, dict[str, Finding]] = defaultdict(dict)
    for finding in chosen:
        for name in finding.names:
            findings_of[name][finding.code] = finding
    return findings_of


def _plan_item(diagnosis: Diagnosis, findings: Mapping[str, Finding], name: str) -> RepairPlan:
    image, mask = diagnosis.files[name]
    steps = [Step(c, _item_details(findings[c], name)) for c in PIXEL_CODES if c in findings]
    return RepairPlan(name, image, mask, tuple(steps))


def _item_details(finding: Finding, name: str) -> dict[str, Any]:
    details = dict(finding.details)
    if "sizes" in details:
        details = {**details, "size": details.pop("sizes")[name]}
    if "swap" in details:
        details = {"swap_sides": name in details["swap"]}
    return details


def _list_actions(findings: Mapping[str, Finding]) -> tuple[str, ...]:
    return tuple(f"{code}: {f.fix}" for code, f in findings.items() if code not in _DROPS)


def _repair_camera(
    diagnosis: Diagnosis, findings: Mapping[str, Finding], name: str
) -> tuple[float, ...]:
    camera = np.array(diagnosis.cameras[name], dtype=np.float64)
    for code, repair in REPAIRS.items():
        if code in findings:
            camera = repair(camera, _item_details(findings[code], name))
    return tuple(camera.tolist())


def _repair_all(
    files: DatasetFiles, label_set: LabelSet, plans: Sequence[RepairPlan], num_workers: int
) -> Iterator[RepairedFiles]:
    repair = partial(repair_files, files, label_set)
    return map_by_workers(repair, plans, num_workers)


def _write(
    writer: DatasetWriter, diagnosis: Diagnosis, item: RepairedFiles, camera: Sequence[float]
) -> None:
    index = diagnosis.index
    repeats = _entry(index, "repeats", item.name)
    writer.add_encoded(
        str(Path(item.name).with_suffix(".png").as_posix()),
        item.image,
        item.mask,
        camera,
        diagnosis.captions.get(item.name, "").strip(),
        residual=_entry(index, "camera_residuals", item.name),
        repeats=1 if repeats is None else repeats,
        attributes=_entry(index, "attributes", item.name),
    )


def _entry(index: Mapping[str, Any], key: str, name: str) -> Any:
    """Return what `dataset.json` says about an item under an optional key, if it makes sense."""
    entries = index.get(key)
    value = entries.get(name) if isinstance(entries, dict) else None
    is_valid, _ = VALUE_RULES[key]
    return value if is_valid(value) else None


def _describe(
    diagnosis: Diagnosis, chosen: Sequence[Finding], dropped: Mapping[str, str]
) -> dict[str, Any]:
    before = diagnosis.index.get("preparation")
    return {
        **(before if isinstance(before, dict) else {}),
        "repairs": [finding.code for finding in chosen],
        "left_out": [[name, reason] for name, reason in sorted(dropped.items())],
    }
