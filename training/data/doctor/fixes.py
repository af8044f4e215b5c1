"""Write a repaired copy of a dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from posixpath import splitext
from typing import Any, Literal

import numpy as np
from PIL import Image

from mate3d.errors import UserError
from mate3d.label_borders import fill_from_nearest, find_in_between
from mate3d.labels import LabelSet
from mate3d.photo.alignment import middle_box
from mate3d.photo.open_photo import to_rgb
from torch_utils.stages import stage
from training.data.doctor.catalogue import CATALOGUE, LEAVES_OUT
from training.data.doctor.check import check_dataset
from training.data.doctor.findings import Diagnosis, Finding
from training.data.doctor.reading import read_image, read_mask
from training.data.format import (
    DatasetFiles,
    DatasetWriter,
    encode_image,
    encode_mask,
    open_files,
)
from training.data.format.layout import SUFFIX
from training.data.workers import map_by_workers

# Repairs that do not change pixels.
_WITHOUT_PIXELS = ("name_mismatch", "entries_invalid", "camera_convention", "camera_mirrored")
# Maximum fraction of unknown ids that is filled from the neighbours.
_MAX_FILLED = 0.1

Chosen = Mapping[str, Finding]
# Image file, mask file, and the data for each repair of pixels, in the order of repairs.
Plan = tuple[str, str, Mapping[str, Any]]


@dataclass(frozen=True)
class FixResult:
    """Result of a repair."""

    output: Path  # the new dataset
    num_written: int  # number of its items
    repaired: Mapping[str, int]  # each action, and the number of items it was applied to
    dropped: Mapping[str, str]  # reason for each item that was left out


def fix_dataset(
    path: str | Path,
    fixes: Sequence[str] | Literal["all"],
    output: str | Path,
    *,
    label_set: LabelSet | str | None = None,
    overwrite: bool = False,
    shard_size: int | None = None,
    num_workers: int = 0,
) -> FixResult:
    """Examine a complete dataset and write a repaired copy; the original is unchanged.

    Args:
        fixes: Codes of the findings to repair, or "all".
        output: Path of the copy: a folder or a .zip.
        label_set: Meaning of the ids if `dataset.json` does not specify it.
        shard_size: Samples per tar shard; None writes single files.
        num_workers: Worker processes; 0 works in this process.

    Raises:
        UserError: If a code is unknown or has no repair, a fault that is not repaired prevents
            writing the copy, nothing would be left, or `output` equals `path`.
    """
    codes = _check_codes(fixes)
    if Path(output).resolve() == Path(path).resolve():
        raise UserError(f"output {output} is the dataset itself; use another path")
    diagnosis = check_dataset(path, label_set=label_set, num_workers=num_workers)
    chosen = {one.code: one for one in diagnosis.findings if one.code in codes}
    left_out = [one for one in chosen.values() if one.kind.fix == LEAVES_OUT]
    dropped = {name: _reason(one, name) for one in reversed(left_out) for name in one.names}
    names = [name for name in diagnosis.files if name not in dropped]
    _require_writable(diagnosis, chosen, names)
    plans = [(*diagnosis.files[name], _pixel_repairs(chosen, name)) for name in names]
    repair = partial(_repair_files, open_files(path), diagnosis.label_set)
    writer = DatasetWriter(output, diagnosis.label_set, overwrite=overwrite, shard_size=shard_size)
    with writer, stage("Writing the repaired copy", len(plans)) as bar:
        repaired = map_by_workers(repair, plans, num_workers)
        for name, (*files, refusal) in zip(names, repaired, strict=True):
            if refusal:
                dropped[name] = refusal
            else:
                _write(writer, diagnosis, chosen, name, files)
            bar.update()
        if dropped.keys() >= diagnosis.files.keys():
            reasons = sorted({reason.partition(":")[0] for reason in dropped.values()})
            raise UserError(f"no items of {path} would be left; dropped for {', '.join(reasons)}")
        writer.describe(
            {
                **diagnosis.index.get("preparation", {}),
                "repairs": list(chosen),
                "left_out": [[name, reason] for name, reason in sorted(dropped.items())],
            }
        )
    actions = {
        f"{one.code}: {one.kind.fix}": len((diagnosis.files.keys() - dropped) & set(one.names))
        for one in chosen.values()
        if one.kind.fix != LEAVES_OUT
    }
    return FixResult(Path(output), len(diagnosis.files.keys() - dropped), actions, dropped)


def _check_codes(fixes: Sequence[str] | Literal["all"]) -> set[str]:
    fixable = [code for code, kind in CATALOGUE.items() if kind.fix]
    codes = fixable if fixes == "all" else [fixes] if isinstance(fixes, str) else fixes
    for code in codes:
        if code not in fixable:
            problem = "has no repair" if code in CATALOGUE else "is unknown"
            raise UserError(f"fix '{code}' {problem}; use all, or any of: {', '.join(fixable)}")
    return set(codes)


def _reason(finding: Finding, name: str) -> str:
    remark = finding.remarks.get(name)
    return f"{finding.code}: {remark}" if remark else finding.code


def _require_writable(diagnosis: Diagnosis, chosen: Chosen, names: Sequence[str]) -> None:
    """Raise if a fault that is not repaired prevents writing the rest."""
    where = f"dataset {diagnosis.path}"
    index_fault = diagnosis.find("index_invalid")
    if index_fault is not None:
        raise UserError(
            f"cannot repair {where}: {index_fault.message}, so its cameras are lost; prepare it "
            "again from images and masks"
        )
    if diagnosis.label_set is None:
        raise UserError(f"{where} has no known label set; set label_set=")
    open_codes = [
        one.code
        for one in diagnosis.findings
        if one.kind.is_blocking
        and one.code not in chosen
        and (not one.names or {*names} & {*one.names})
    ]
    if open_codes:
        raise UserError(
            f"cannot write {where} with {', '.join(open_codes)}; add them to fix, or use fix=all"
        )


def _pixel_repairs(chosen: Chosen, name: str) -> dict[str, Any]:
    return {
        code: finding.details[name]
        for code, finding in chosen.items()
        if name in finding.details and code not in _WITHOUT_PIXELS
    }


def _write(
    writer: DatasetWriter, diagnosis: Diagnosis, chosen: Chosen, name: str, files: Sequence[bytes]
) -> None:
    camera = diagnosis.cameras[name]
    for code in ("camera_convention", "camera_mirrored"):
        if code in chosen and name in chosen[code].details:
            camera = chosen[code].details[name].tolist()
    known = {key: values.get(name) for key, values in diagnosis.index.items()}
    writer.add_encoded(
        splitext(name)[0] + SUFFIX,
        *files,
        camera,
        diagnosis.captions.get(name, "").strip(),
        residual=known["camera_residuals"],
        repeats=known["repeats"] or 1,
        attributes=known["attributes"],
    )


def _repair_files(files: DatasetFiles, label_set: LabelSet, plan: Plan) -> tuple[bytes, bytes, str]:
    """Read, repair and encode the files of one item.

    Returns:
        Image and mask as PNG files, or the reason for failure.
    """
    image_content, mask_content = files.read(plan[0]), files.read(plan[1])
    repairs = plan[2]
    if not repairs:
        return image_content, mask_content, ""
    image = read_image(image_content)
    # Reading already looks up colours and merges channels.
    values, _ = read_mask(mask_content, label_set.palette)
    for code, detail in repairs.items():
        if code == "mask_interpolated":
            values = fill_from_nearest(values, find_in_between(values))
        elif code == "mask_unknown_ids":
            is_unknown = values >= label_set.num_classes
            if is_unknown.mean() <= _MAX_FILLED:
                values = fill_from_nearest(values, is_unknown)
        elif isinstance(detail, np.ndarray):
            values = detail[values[:, ::-1] if code == "mask_mirrored" else values]
    share = float((values >= label_set.num_classes).mean())
    if share > 0:
        return b"", b"", f"mask_unknown_ids: on {100 * share:.0f} % of the mask"
    values = _resize_mask(values, image.size)
    if "image_size" in repairs:
        box, side = middle_box(image.size), repairs["image_size"]
        image = to_rgb(image.crop(box)).resize((side, side), Image.Resampling.BICUBIC)
        values = _resize_mask(values[box[1] : box[3], box[0] : box[2]], (side, side))
    if {"image_size", "image_format"} & repairs.keys():
        image_content = encode_image(to_rgb(image))
    return image_content, encode_mask(values, label_set), ""


def _resize_mask(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.array(Image.fromarray(values).resize(size, Image.Resampling.NEAREST))
