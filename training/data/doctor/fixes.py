"""Write a repaired copy of a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from posixpath import splitext
from typing import Any, Literal

import numpy as np

from mate3d.errors import UserError
from mate3d.labels import LabelSet
from training.data.doctor.cameras import mirror_camera
from training.data.doctor.catalogue import CATALOGUE
from training.data.doctor.check import check_dataset
from training.data.doctor.examination import Progress
from training.data.doctor.findings import LEAVES_OUT, Diagnosis, Finding
from training.data.doctor.geometry import GEOMETRY_KINDS
from training.data.doctor.index import INDEX_KINDS
from training.data.doctor.masks import PIXEL_KINDS
from training.data.doctor.pairs import PAIR_KINDS
from training.data.doctor.repairs import RepairedFiles, RepairPlan, repair_files
from training.data.format import DatasetWriter, open_files
from training.data.format.index import VALUE_RULES
from training.data.format.layout import SUFFIX
from training.data.workers import map_by_workers

# Faults that the format on disk cannot hold, so that nothing can be written without their repair.
_BLOCKING = {
    kind.code
    for kind in (*INDEX_KINDS, *PAIR_KINDS, *PIXEL_KINDS, CATALOGUE["camera_invalid"])
    if kind.severity == "error"
}
_PIXEL_CODES = {kind.code for kind in (*PIXEL_KINDS, *GEOMETRY_KINDS)}


@dataclass(frozen=True)
class FixResult:
    """What a repair did."""

    output: Path  # the new data set
    num_written: int  # its items
    changed: Mapping[str, tuple[str, ...]]  # what was done to an item; others were copied
    dropped: Mapping[str, str]  # why an item was left out


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
    chosen = [finding for finding in diagnosis.findings if finding.code in codes and finding.fix]
    dropped = _find_dropped(chosen)
    names = [name for name in diagnosis.files if name not in dropped]
    _require_writable(diagnosis, chosen, names)
    plans = [_plan_item(diagnosis, chosen, name) for name in names]
    repair = partial(repair_files, open_files(path), diagnosis.label_set)
    num_written = 0
    with DatasetWriter(
        output, diagnosis.label_set, overwrite=overwrite, shard_size=shard_size
    ) as writer:
        for done, item in enumerate(map_by_workers(repair, plans, num_workers), start=1):
            if item.refusal:
                dropped[item.name] = item.refusal
            else:
                _write(writer, diagnosis, chosen, item)
                num_written += 1
            if progress is not None:
                progress(done, len(plans))
        if num_written == 0:
            raise UserError(_nothing_left(diagnosis, dropped))
        writer.describe(_describe(diagnosis, chosen, dropped))
    changed: dict[str, tuple[str, ...]] = {}
    for finding in chosen:
        for name in finding.names:
            if name in diagnosis.files and name not in dropped:
                changed[name] = (*changed.get(name, ()), f"{finding.code}: {finding.fix}")
    return FixResult(Path(output), num_written, changed, dropped)


def _check_codes(fixes: Sequence[str] | Literal["all"]) -> set[str]:
    fixable = [code for code, kind in CATALOGUE.items() if kind.fix]
    codes = fixable if fixes == "all" else [fixes] if isinstance(fixes, str) else fixes
    for code in codes:
        if code not in fixable:
            problem = "has no repair" if code in CATALOGUE else "is no finding"
            raise UserError(f"fix '{code}' {problem}; use all or: {', '.join(fixable)}")
    return set(codes)


def _find_dropped(chosen: Sequence[Finding]) -> dict[str, str]:
    dropped: dict[str, str] = {}
    for finding in chosen:
        for name in finding.names if finding.fix == LEAVES_OUT else ():
            remark = finding.remarks.get(name)
            dropped.setdefault(name, f"{finding.code}: {remark}" if remark else finding.code)
    return dropped


def _require_writable(
    diagnosis: Diagnosis, chosen: Sequence[Finding], names: Sequence[str]
) -> None:
    """Raise if a fault that nobody repairs keeps the rest from being written."""
    where = f"data set {diagnosis.path}"
    index_fault = diagnosis.find("index_invalid")
    if index_fault is not None:
        raise UserError(
            f"{where} cannot be repaired: {index_fault.message}, so its cameras are lost; prepare "
            "it again from images and masks"
        )
    if diagnosis.label_set is None:
        raise UserError(f"{where} does not name a known label set; give label_set=")
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
            f"{where} cannot be written while it has {', '.join(open_codes)}; add them to fix, or "
            "use fix=all"
        )
    if not names:
        raise UserError(_nothing_left(diagnosis, _find_dropped(chosen)))


def _nothing_left(diagnosis: Diagnosis, dropped: Mapping[str, str]) -> str:
    reasons = sorted({reason.split(":")[0] for reason in dropped.values()})
    return f"nothing of data set {diagnosis.path} would be left; dropped for {', '.join(reasons)}"


def _plan_item(diagnosis: Diagnosis, chosen: Sequence[Finding], name: str) -> RepairPlan:
    repairs = {
        finding.code: finding.details[name]
        for finding in chosen
        if finding.code in _PIXEL_CODES and name in finding.details
    }
    return RepairPlan(name, *diagnosis.files[name], repairs)


def _write(
    writer: DatasetWriter, diagnosis: Diagnosis, chosen: Sequence[Finding], item: RepairedFiles
) -> None:
    details = {finding.code: finding.details.get(item.name) for finding in chosen}
    camera = details.get("camera_convention")
    if camera is None:
        camera = np.array(diagnosis.cameras[item.name])
    camera = mirror_camera(camera, details.get("camera_mirrored") or "")
    known = {key: _entry(diagnosis.index, key, item.name) for key in VALUE_RULES}
    writer.add_encoded(
        splitext(item.name)[0] + SUFFIX,
        item.image,
        item.mask,
        camera.tolist(),
        diagnosis.captions.get(item.name, "").strip(),
        residual=known["camera_residuals"],
        repeats=known["repeats"] or 1,
        attributes=known["attributes"],
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
