"""Which image, mask, camera and caption belong together, and what `dataset.json` says."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from mate3d.errors import UserError
from mate3d.labels import LabelSet, get_mask_label_set
from training.data.doctor.findings import Finding, make_finding
from training.data.format import INDEX_NAME, DatasetFiles
from training.data.format.index import CAMERA_CONVENTION, VALUE_RULES
from training.data.format.json_reading import is_number, parse_json
from training.data.format.layout import is_safe_name

_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_SYSTEM_FILES = ("Thumbs.db", ".DS_Store", "desktop.ini")


@dataclass(frozen=True)
class RawIndex:
    """`dataset.json` as far as it makes sense.

    Args:
        content: The parsed file; empty if there is none.
        label_set: The set it names, if that is known.
        cameras: Camera of each listed name, exactly as written.
        captions: Texts by name, exactly as written.
        findings: What is wrong with the file itself.
    """

    content: Mapping[str, Any]
    label_set: LabelSet | None
    cameras: Mapping[str, tuple[float, ...]]
    captions: Mapping[str, str]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Pairs:
    """The parts of each name; names are the images' where there is an image.

    Args:
        files: Image file and mask file, None for one that is missing.
        cameras: Camera of each name that has one, possibly malformed.
        captions: Caption of each name that has one.
        findings: What does not pair.
    """

    files: Mapping[str, tuple[str | None, str | None]]
    cameras: Mapping[str, tuple[float, ...]]
    captions: Mapping[str, str]
    findings: tuple[Finding, ...]


def read_index(files: DatasetFiles, file_names: Iterable[str], given: LabelSet | None) -> RawIndex:
    """Read `dataset.json`, keeping whatever is usable.

    Args:
        files: The data set.
        file_names: All its files.
        given: Label set that the user named, which counts where the file names none.
    """
    if INDEX_NAME not in set(file_names):
        return RawIndex({}, given, {}, {}, (make_finding("index_missing"),))
    try:
        content = parse_json(files.read(INDEX_NAME), INDEX_NAME)
        if not isinstance(content, dict) or not isinstance(content.get("labels"), list | dict):
            raise ValueError("it must hold 'labels': [[name, [25 numbers]], ...]")
    except ValueError as error:
        return RawIndex({}, given, {}, {}, (make_finding("index_invalid", message=str(error)),))
    findings: list[Finding] = []
    label_set = _find_label_set(content, given, findings)
    _check_convention(content, findings)
    cameras = _collect_cameras(content["labels"], findings)
    captions = _collect_captions(content.get("captions"), findings)
    _check_values(content, findings)
    return RawIndex(content, label_set, cameras, captions, tuple(findings))


def _find_label_set(
    content: Mapping[str, Any], given: LabelSet | None, findings: list[Finding]
) -> LabelSet | None:
    name = content.get("label_set")
    if name is None:
        findings.append(make_finding("label_set_missing", is_fixable=given is not None))
        return given
    try:
        label_set = get_mask_label_set(str(name))
        version = content.get("label_set_version", 1)
        if version == label_set.version:
            return label_set
        problem = f"label_set_version is {version!r}, {name} has {label_set.version} here"
    except UserError as error:
        problem = str(error)
    finding = make_finding("label_set_unknown", message=problem, is_fixable=given is not None)
    findings.append(finding)
    return given


def _check_convention(content: Mapping[str, Any], findings: list[Finding]) -> None:
    convention = content.get("camera_convention")
    if convention is None:
        findings.append(make_finding("convention_missing"))
    elif convention != CAMERA_CONVENTION:
        message = f"camera_convention is {convention!r}, must be '{CAMERA_CONVENTION}'"
        findings.append(make_finding("convention_unknown", message=message))


def _collect_cameras(
    labels: list[Any] | dict[str, Any], findings: list[Finding]
) -> dict[str, tuple[float, ...]]:
    entries = labels if isinstance(labels, list) else [list(pair) for pair in labels.items()]
    cameras: dict[str, tuple[float, ...]] = {}
    malformed: list[str] = []
    different: dict[str, bool] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            malformed.append(f"entry {number}")
            continue
        camera = _numbers(entry[1])
        if entry[0] in cameras:
            is_different = cameras[entry[0]] != camera
            different[entry[0]] = different.get(entry[0], False) or is_different
            continue
        cameras[entry[0]] = camera
    if malformed:
        findings.append(make_finding("label_entry_invalid", malformed))
    if different:
        num_different = sum(different.values())
        findings.append(
            make_finding(
                "name_duplicate",
                sorted(different),
                f"{num_different} with different cameras",
                details={"different": tuple(name for name in different if different[name])},
            )
        )
    return cameras


def _numbers(value: Any) -> tuple[float, ...]:
    """Return the numbers of a camera, NaN for what is none; () for what is no list."""
    if not isinstance(value, list):
        return ()
    return tuple(float(v) if is_number(v) else math.nan for v in value)


def _check_values(content: Mapping[str, Any], findings: list[Finding]) -> None:
    """Look into the optional keys whose values the loader would refuse."""
    names: set[str] = set()
    keys = []
    for key, (is_valid, _) in VALUE_RULES.items():
        values = content.get(key) or {}
        invalid = (
            [name for name, value in values.items() if not is_valid(value)]
            if isinstance(values, dict)
            else []
        )
        names.update(invalid)
        if invalid or not isinstance(values, dict):
            keys.append(key)
    if not isinstance(content.get("preparation") or {}, dict):
        keys.append("preparation")
    if keys:
        findings.append(make_finding("values_invalid", sorted(names), ", ".join(keys)))


def _collect_captions(captions: Any, findings: list[Finding]) -> dict[str, str]:
    if captions is None:
        return {}
    if not isinstance(captions, dict):
        findings.append(make_finding("captions_invalid"))
        return {}
    malformed = sorted(name for name, text in captions.items() if not isinstance(text, str))
    if malformed:
        findings.append(make_finding("captions_invalid", malformed))
    return {name: text for name, text in captions.items() if isinstance(text, str)}


def pair_files(file_names: Iterable[str], index: RawIndex) -> Pairs:
    """Bring images, masks, cameras and captions together by name.

    Parts whose names differ only in extension, prefix, slashes or capitals are paired too, with a
    finding, so that one slip in the naming does not hide everything else.
    """
    images, masks, stray = _sort_files(file_names)
    names = {_output_name(name): name for name in images}
    mask_of, lone_masks, renamed = _match(names, masks)
    camera_of, lone_cameras, renamed_cameras = _match(names, index.cameras)
    caption_of, lone_captions, renamed_captions = _match(names, index.captions)
    renamed |= renamed_cameras | renamed_captions
    files: dict[str, tuple[str | None, str | None]] = {
        name: (f"images/{images[raw]}", masks.get(mask_of.get(name, "")))
        for name, raw in names.items()
    }
    files = {n: (i, None if m is None else f"masks/{m}") for n, (i, m) in files.items()}
    files |= {_output_name(name): (None, f"masks/{masks[name]}") for name in lone_masks}
    cameras = {name: index.cameras[raw] for name, raw in camera_of.items()}
    captions = {name: index.captions[raw] for name, raw in caption_of.items()}
    has_index = bool(index.content)
    findings = [
        *_found("no_images", [], not images),
        *_found("name_mismatch", renamed),
        *_found("name_unsafe", [name for name in [*files, *stray] if not is_safe_name(name)]),
        *_found("image_format", [n for n, raw in names.items() if not _is_png(raw)]),
        *_found("image_without_mask", [n for n, pair in files.items() if pair[1] is None]),
        *_found("mask_without_image", map(_output_name, lone_masks)),
        *_found("image_without_camera", [n for n in names if n not in cameras and has_index]),
        *_found("camera_without_image", lone_cameras),
        *_found("caption_without_image", lone_captions),
        *_found("stray_files", stray),
        *_caption_findings(names, captions),
    ]
    return Pairs(dict(sorted(files.items())), cameras, captions, tuple(findings))


def _found(code: str, names: Iterable[str], is_found: bool = False) -> list[Finding]:
    names = sorted(set(names))
    return [make_finding(code, names)] if names or is_found else []


def _caption_findings(names: Iterable[str], captions: Mapping[str, str]) -> list[Finding]:
    empty = [name for name, text in captions.items() if not text.strip()]
    missing = [name for name in names if name not in captions] if captions else []
    return [*_found("caption_empty", empty), *_found("caption_missing", missing)]


def _sort_files(
    file_names: Iterable[str],
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return the pictures below images/ and masks/, and what else lies around."""
    images: dict[str, str] = {}
    masks: dict[str, str] = {}
    stray: list[str] = []
    # PNG files first, so that a leftover copy in another format is the stray one.
    for file in sorted(file_names, key=lambda name: (not _is_png(name), name)):
        folder, _, name = file.partition("/")
        parts = {"images": images, "masks": masks}.get(folder)
        is_system = any(part.startswith("._") for part in file.split("/")) or (
            file.rsplit("/", 1)[-1] in _SYSTEM_FILES or folder == "__MACOSX"
        )
        is_picture = PurePosixPath(name).suffix.lower() in _PICTURE_SUFFIXES
        if parts is not None and is_picture and not is_system:
            is_copy = not _is_png(name) and _output_name(name) in parts
            stray.append(file) if is_copy else parts.setdefault(name, name)
        elif file != INDEX_NAME:
            stray.append(file)
    return images, masks, stray


def _is_png(name: str) -> bool:
    return name.lower().endswith(".png")


def _output_name(name: str) -> str:
    """Return the name under which an image is written: its own, but with the suffix of a PNG."""
    return name if _is_png(name) else str(PurePosixPath(name).with_suffix(".png"))


def _match(
    names: Mapping[str, str], others: Mapping[str, Any]
) -> tuple[dict[str, str], list[str], set[str]]:
    """Match other parts to the images' names.

    Returns:
        The part of each name, the parts that are left over, and the names whose part is spelt
        differently.
    """
    matched = {name: raw for name, raw in names.items() if raw in others}
    matched |= {name: name for name in names if name not in matched and name in others}
    left_over = sorted(set(others) - set(matched.values()))
    renamed: set[str] = set()
    for key in (_loose_key, _base_key):
        # A key that two names share says nothing.
        name_counts, other_counts = Counter(map(key, names)), Counter(map(key, others))
        place = {key(name): name for name in names if name not in matched}
        for other in list(left_over):
            name = place.get(key(other))
            if name and name_counts[key(other)] == other_counts[key(other)] == 1:
                matched[name] = other
                left_over.remove(other)
                renamed.add(name)
    return matched, left_over, renamed


def _loose_key(name: str) -> str:
    path = name.replace("\\", "/").removeprefix("./").lower()
    for prefix in ("images/", "masks/"):
        path = path.removeprefix(prefix)
    return str(PurePosixPath(path).with_suffix(""))


def _base_key(name: str) -> str:
    return PurePosixPath(_loose_key(name)).name
