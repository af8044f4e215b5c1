"""What `dataset.json` says, as far as it makes sense."""

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from mate3d.errors import UserError
from mate3d.labels import LabelSet
from training.data.doctor.findings import Kind, Notes
from training.data.format import INDEX_NAME, DatasetFiles
from training.data.format.index import CAMERA_CONVENTION, VALUE_RULES, parse_label_set
from training.data.format.json_reading import is_number, parse_json

INDEX_KINDS = (
    Kind(
        "index_invalid",
        "error",
        "dataset.json is missing or cannot be read",
        "It holds the cameras and names the label set; a full disk or an interrupted copy often "
        "cuts it off.",
    ),
    Kind(
        "label_set_unknown",
        "error",
        "label set not named, or not known",
        "Nothing says what the numbers in the masks mean.",
        "writes the label set that you name with label_set=",
    ),
    Kind(
        "convention_unknown",
        "error",
        "camera convention not named, or not known",
        "dataset.json does not say which way the axes of its cameras point.",
        "writes 'opencv' (the axes are checked, and turned by the fix camera_convention)",
    ),
    Kind(
        "entries_invalid",
        "error",
        "malformed entries of dataset.json",
        "'labels' are [name, [25 numbers]], each name once; 'captions' are texts; 'repeats' whole "
        "numbers of 1..1000, 'camera_residuals' numbers of at least 0, 'attributes' numbers.",
        "leaves these entries out",
    ),
)


@dataclass(frozen=True)
class RawIndex:
    """`dataset.json` as far as it makes sense.

    Args:
        label_set: The set it names, or else the given one.
        content: The parsed file; empty if there is none.
        cameras: Camera of each listed name, exactly as written; () for what is no list of numbers.
        captions: Texts by name, exactly as written.
    """

    label_set: LabelSet | None
    content: Mapping[str, Any] = field(default_factory=dict)
    cameras: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)


def read_index(
    files: DatasetFiles, file_names: Container[str], given: LabelSet | None, notes: Notes
) -> RawIndex:
    """Read `dataset.json`, keeping whatever is usable.

    Args:
        files: The data set.
        file_names: All its files.
        given: Label set that the user named, which counts where the file names none.
        notes: Gets what is wrong.
    """
    try:
        if INDEX_NAME not in file_names:
            raise UserError("it is missing")
        content = parse_json(files.read(INDEX_NAME), INDEX_NAME)
        if not isinstance(content, dict) or not isinstance(content.get("labels"), list | dict):
            raise UserError("it must hold 'labels': [[name, [25 numbers]], ...]")
    except UserError as error:
        notes.say("index_invalid", str(error))
        return RawIndex(given)
    label_set = given
    try:
        label_set = parse_label_set(content, INDEX_NAME)
    except UserError as error:
        notes.say("label_set_unknown", str(error))
    convention = content.get("camera_convention")
    if convention != CAMERA_CONVENTION:
        notes.say("convention_unknown", f"{convention!r} instead of '{CAMERA_CONVENTION}'")
    cameras = _collect_cameras(content["labels"], notes)
    captions = _keep_valid(content, "captions", lambda text: isinstance(text, str), notes)
    for key, (is_valid, _) in VALUE_RULES.items():
        _keep_valid(content, key, is_valid, notes)
    if not isinstance(content.get("preparation") or {}, dict):
        notes.say("entries_invalid", "preparation is no object")
    return RawIndex(label_set, content, cameras, captions)


def _collect_cameras(
    labels: list[Any] | dict[str, Any], notes: Notes
) -> dict[str, tuple[float, ...]]:
    entries = labels if isinstance(labels, list) else [list(pair) for pair in labels.items()]
    cameras: dict[str, tuple[float, ...]] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            notes.add("entries_invalid", f"entry {number}")
            continue
        name, values = entry
        numbers = values if isinstance(values, list) else []
        camera = tuple(float(v) if is_number(v) else math.nan for v in numbers)
        if name in cameras:
            is_same = cameras[name] == camera
            notes.add(
                "entries_invalid", name, "listed twice" if is_same else "listed twice, differently"
            )
            # Only one of two can be right, and nothing says which.
            camera = camera if is_same else ()
        cameras[name] = camera
    return cameras


def _keep_valid(
    content: Mapping[str, Any], key: str, is_valid: Callable[[Any], bool], notes: Notes
) -> dict[str, Any]:
    values = content.get(key) or {}
    if not isinstance(values, dict):
        notes.say("entries_invalid", f"{key} is no object")
        return {}
    for name, value in values.items():
        if not is_valid(value):
            notes.add("entries_invalid", name, key)
    return {name: value for name, value in values.items() if is_valid(value)}
