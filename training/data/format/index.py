"""`dataset.json`: parsing, and checks against the files of its dataset."""

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import training.data.format.layout as layout
from mate3d.errors import UserError
from mate3d.labels import LabelSet, get_mask_label_set
from training.data.format.files import DatasetFiles, open_files
from training.data.format.json_reading import is_number, is_whole, parse_json

CAMERA_CONVENTION = "opencv"
NUM_CAMERA_VALUES = 25
MAX_REPEATS = 1000


@dataclass(frozen=True)
class DatasetIndex:
    """Contents of `dataset.json`, in order of name.

    Args:
        names: Image names relative to `images/` and `masks/`, sorted.
        cameras: One camera label per image, [N, 25] float32.
        captions: One caption per image, "" if there is none.
        label_set: Meaning of the mask ids.
        residuals: RMS reprojection error of each camera's landmarks as a fraction of the image
            side, [N] float32; NaN if unknown.
        repeats: How often each image occurs in an epoch, [N] int64, 1..`MAX_REPEATS`.
        attributes: Numeric attributes of each image, by name; empty if there are none.
        preparation: How the dataset was made.
    """

    names: tuple[str, ...]
    cameras: np.ndarray
    captions: tuple[str, ...]
    label_set: LabelSet
    residuals: np.ndarray
    repeats: np.ndarray
    attributes: tuple[Mapping[str, float | list[float]], ...]
    preparation: Mapping[str, Any] = field(default_factory=dict)


def open_dataset(path: str | Path) -> tuple[DatasetFiles, DatasetIndex]:
    """Open a dataset and check that images, masks and cameras match by name.

    Raises:
        UserError: If the path, `dataset.json` or one half of a pair is missing or malformed.
    """
    files = open_files(path)
    names = files.names()
    if layout.INDEX_NAME not in names:
        raise UserError(f"dataset {path} has no {layout.INDEX_NAME} at the top level{_hint(names)}")
    backslashed = next((name for name in names if "\\" in name), None)
    if backslashed is not None:
        raise UserError(
            f"dataset {path} has names with backslashes, first {backslashed}; pack it with a "
            "program that uses '/' between folders"
        )
    index = parse_index(files.read(layout.INDEX_NAME), f"{path}/{layout.INDEX_NAME}")
    images, masks = (
        {name.removeprefix(folder) for name in names if layout.is_image_of(name, folder)}
        for folder in (layout.IMAGE_FOLDER, layout.MASK_FOLDER)
    )
    _require_same(path, "image", images, "mask", masks)
    _require_same(path, "image", images, f"camera in {layout.INDEX_NAME}", set(index.names))
    if not images:
        raise UserError(f"dataset {path} contains no images/**/*.png")
    return files, index


def parse_index(content: bytes, where: str) -> DatasetIndex:
    """Parse the content of a `dataset.json`; `where` is its name in error messages.

    Raises:
        UserError: If anything in it is missing or malformed.
    """
    index = parse_json(content, where)
    if not isinstance(index, dict) or not isinstance(index.get("labels"), list):
        raise UserError(f"{where} must contain 'labels': [[name, [25 numbers]], ...]")
    convention = index.get("camera_convention")
    if convention != CAMERA_CONVENTION:
        raise UserError(f"{where}: camera_convention is {convention!r}; use '{CAMERA_CONVENTION}'")
    cameras: dict[str, list[float]] = {}
    for entry in index["labels"]:
        name, camera = _parse_camera(entry, where)
        if name in cameras:
            raise UserError(f"{where} lists {name} twice in 'labels'; names must be unique")
        cameras[name] = camera
    names = tuple(sorted(cameras))
    captions = _parse_map(index, "captions", lambda v: isinstance(v, str), "strings", where)
    residuals, repeats, attributes = (
        _parse_map(index, key, *rule, where) for key, rule in VALUE_RULES.items()
    )
    preparation = index.get("preparation") or {}
    if not isinstance(preparation, dict):
        raise UserError(f"{where}: 'preparation' must be an object")
    return DatasetIndex(
        names=names,
        cameras=np.array([cameras[name] for name in names], dtype=np.float32).reshape(-1, 25),
        captions=tuple(captions.get(name, "") for name in names),
        label_set=parse_label_set(index, where),
        residuals=np.array([residuals.get(name, math.nan) for name in names], dtype=np.float32),
        repeats=np.array([repeats.get(name, 1) for name in names], dtype=np.int64),
        attributes=tuple(attributes.get(name, {}) for name in names),
        preparation=preparation,
    )


def _hint(names: list[str]) -> str:
    """Return a hint if the index is inside a single subfolder."""
    places = [
        name for name in names if name.endswith(f"/{layout.INDEX_NAME}") and name.count("/") == 1
    ]
    if len(places) != 1:
        return ""
    return f"; found {places[0]}: move the contents of that folder to the top level"


def _require_same(
    path: str | Path, kind: str, names: set[str], other: str, others: set[str]
) -> None:
    for has, lacks, unpaired in ((kind, other, names - others), (other, kind, others - names)):
        if unpaired:
            raise UserError(
                f"dataset {path}: {len(unpaired)} name(s) with {has} but without {lacks}, "
                f"first {min(unpaired)}; both must have the same name"
            )


def parse_label_set(index: Mapping[str, Any], where: str) -> LabelSet:
    """Return the label set of an index.

    Raises:
        UserError: If it is unknown, or its version differs.
    """
    label_set = get_mask_label_set(str(index.get("label_set")))
    version = index.get("label_set_version", 1)
    if version != label_set.version:
        raise UserError(
            f"{where}: label_set_version is {version!r} (expected {label_set.version} for "
            f"{label_set.name}); prepare the dataset again"
        )
    return label_set


def _parse_camera(entry: Any, where: str) -> tuple[str, list[float]]:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
        text = entry if isinstance(entry, str) else reprlib.repr(entry)
        raise UserError(f"{where}: entry {text[:60]} of 'labels' is not [name, [25 numbers]]")
    name, camera = entry
    try:
        layout.check_name(name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    values = camera if isinstance(camera, list) else []
    numbers = [value for value in values if is_number(value)]
    if len(values) != NUM_CAMERA_VALUES or len(numbers) != NUM_CAMERA_VALUES:
        raise UserError(
            f"{where}: camera of {name} has {len(values)} values, {len(numbers)} of them finite "
            f"numbers; a camera needs {NUM_CAMERA_VALUES} finite numbers"
        )
    return name, numbers


def _parse_map(
    index: dict[str, Any], key: str, is_valid: Callable[[Any], bool], allowed: str, where: str
) -> dict:
    values = index.get(key) or {}
    if not isinstance(values, dict) or not all(map(is_valid, values.values())):
        raise UserError(f"{where}: '{key}' must map image names to {allowed}")
    return values


def _is_attributes(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_number(number) or (isinstance(number, list) and all(map(is_number, number)))
        for number in value.values()
    )


# Check of the values of each optional key, and a description of the allowed ones.
VALUE_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "camera_residuals": (lambda v: is_number(v) and v >= 0, "numbers of at least 0"),
    "repeats": (lambda v: is_whole(v, 1, MAX_REPEATS), f"integers in 1..{MAX_REPEATS}"),
    "attributes": (_is_attributes, "{attribute: number(s)}"),
}
