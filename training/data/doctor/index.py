"""Lenient reading of `dataset.json`."""

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from mate3d.errors import UserError
from mate3d.labels import LabelSet
from training.data.doctor.findings import Notes
from training.data.format import INDEX_NAME, DatasetFiles
from training.data.format.index import CAMERA_CONVENTION, VALUE_RULES, parse_label_set
from training.data.format.json_reading import is_number, parse_json

_RULES = {
    "captions": lambda text: isinstance(text, str),
    "preparation": lambda value: True,
    **{key: is_valid for key, (is_valid, _) in VALUE_RULES.items()},
}


@dataclass(frozen=True)
class RawIndex:
    """The valid parts of `dataset.json`."""

    label_set: LabelSet | None  # the one in the file, otherwise the user's
    # Camera of each listed name as written, with NaN for non-numbers; () if it is not a list.
    cameras: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    # The other keys with values by name, without malformed ones; None without a file.
    entries: Mapping[str, Mapping[str, Any]] | None = None


def read_index(
    files: DatasetFiles, file_names: Container[str], given: LabelSet | None, notes: Notes
) -> RawIndex:
    """Read `dataset.json`, keeping all usable parts.

    Args:
        file_names: Names of all its files.
        given: Label set specified by the user, used if the file has none.
    """
    try:
        if INDEX_NAME not in file_names:
            raise UserError("missing")
        content = parse_json(files.read(INDEX_NAME), INDEX_NAME)
        if not isinstance(content, dict) or not isinstance(content.get("labels"), list | dict):
            raise UserError("must contain 'labels': [[name, [25 numbers]], ...]")
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
    entries = {key: _keep_valid(content, key, rule, notes) for key, rule in _RULES.items()}
    return RawIndex(label_set, _collect_cameras(content["labels"], notes), entries)


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
        camera = tuple(float(value) if is_number(value) else math.nan for value in numbers)
        if name in cameras:
            is_same = cameras[name] == camera
            notes.add("entries_invalid", name, f"listed twice{'' if is_same else ', differently'}")
            # At most one can be right, and it is unknown which.
            camera = camera if is_same else ()
        cameras[name] = camera
    return cameras


def _keep_valid(
    content: Mapping[str, Any], key: str, is_valid: Callable[[Any], bool], notes: Notes
) -> dict[str, Any]:
    values = content.get(key) or {}
    if not isinstance(values, dict):
        notes.say("entries_invalid", f"{key} is not an object")
        return {}
    for name in values:
        if not is_valid(values[name]):
            notes.add("entries_invalid", name, key)
    return {name: value for name, value in values.items() if is_valid(value)}
