"""Cameras, captions, landmarks and attributes in files beside the photos."""

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mate3d.camera_checks import (
    are_inverted,
    exchange_axes,
    has_plausible_intrinsics,
    has_y_up,
    is_rigid,
    looks_away,
    split_camera,
)
from mate3d.errors import UserError
from training.data.format.index import NUM_CAMERA_VALUES
from training.data.format.json_reading import is_number, parse_json, read_text
from training.data.preparation.samples import Point

_NAME_FIELDS = ("file_name", "name", "image")
_TEXT_FIELDS = ("text", "caption")
# Minimum fraction of a file's cameras with the same axes.
_MIN_AGREEMENT = 0.98
# Range of each of the five points among iBUG's 68 landmarks (Sagonas et al. 2013): eyes are
# outlines, the others single points.
_FIVE_OF_68 = ((36, 42), (42, 48), (30, 31), (48, 49), (54, 55))


@dataclass(frozen=True)
class SideFile:
    """Contents of a file about photos.

    Args:
        values: Values by the names in the file.
        problems: Why other names in the file have no usable value.
        note: A sentence about the file, for the user, or "".
    """

    values: Mapping[str, Any]
    problems: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def read_captions(path: Path) -> SideFile:
    """Read captions by photo name.

    Formats: .json {name: text}; .jsonl with one object {"file_name": ..., "text": ...} per line, as
    in Hugging Face image folders; .csv with columns name and caption; a folder of NAME.txt. White
    space is collapsed.

    Raises:
        UserError: If the file is missing, malformed or empty, or lists a photo twice.
    """
    if path.is_dir():
        entries: Iterable[tuple[Any, Any]] = _read_folder(path, "captions").items()
    elif path.suffix.lower() == ".json":
        entries = _read_mapping(path, "captions", "text").items()
    elif path.suffix.lower() == ".jsonl":
        entries = _read_lines(path)
    elif path.suffix.lower() == ".csv":
        entries = _read_csv(path)
    else:
        raise UserError(f"captions {path}: use .json, .jsonl, .csv or a folder of NAME.txt")
    captions: dict[str, str] = {}
    for name, text in entries:
        if not isinstance(name, str) or not isinstance(text, str):
            raise UserError(f"captions {path}: name and caption of {name!r} must be strings")
        if name in captions:
            raise UserError(f"captions {path} lists {name} twice")
        captions[name] = " ".join(text.split())
    return SideFile(_require_some(captions, path, "captions"))


def read_landmarks(path: Path) -> SideFile:
    """Read landmarks: JSON {name: points}, or a folder of NAME.txt with one "x y" per line.

    There are five points, as in `RawItem.landmarks`, or iBUG's 68, which are reduced to five.

    Raises:
        UserError: If the file or folder is missing, malformed or empty.
    """
    if path.is_dir():
        found: Mapping[str, Any] = {
            name: [line.replace(",", " ").split() for line in text.splitlines() if line.strip()]
            for name, text in _read_folder(path, "landmarks").items()
        }
    else:
        found = _read_mapping(path, "landmarks", "five points [x, y]")
    landmarks: dict[str, tuple[Point, ...]] = {}
    problems: dict[str, str] = {}
    for name, points in _require_some(found, path, "landmarks").items():
        try:
            landmarks[name] = _five_points(points)
        except ValueError as error:
            problems[name] = str(error)
    return SideFile(landmarks, problems)


def read_attributes(path: Path) -> SideFile:
    """Read attributes: JSON {name: {attribute: number}}, or a text file in CelebA's format.

    CelebA's format has the number of images, the attribute names, and one line per image with its
    name and 1 or -1 per attribute; -1 becomes 0.

    Raises:
        UserError: If the file is missing or malformed.
    """
    if path.suffix.lower() != ".json":
        return SideFile(_parse_celeba(read_text(path, "attributes"), path))
    found = _read_mapping(path, "attributes", "{attribute: number}")
    for name, values in found.items():
        numbers = values.values() if isinstance(values, dict) else [None]
        if not all(isinstance(number, bool) or is_number(number) for number in numbers):
            raise UserError(f"{path}: attributes of {name} must be {{attribute: finite number}}")
    return SideFile({n: {a: float(v) for a, v in values.items()} for n, values in found.items()})


def read_cameras(path: Path) -> SideFile:
    """Read cameras: EG3D's {"labels": [[name, [25 numbers]], ...]}, or {name: [25 numbers]}.

    OpenGL axes are converted to OpenCV's.

    Raises:
        UserError: If the file is missing or malformed, has no usable camera, or its cameras are
            world-to-camera, in pixels, or have axes that are neither OpenCV's nor OpenGL's.
    """
    problems: dict[str, str] = {}
    cameras: dict[str, np.ndarray] = {}

    def keep(are_good: Callable[[np.ndarray], np.ndarray], reason: str) -> None:
        flags = are_good(_stack(cameras))
        for name, is_good in zip(list(cameras), flags, strict=True):
            if not is_good:
                problems[name] = reason
                del cameras[name]

    for name, numbers in _read_entries(path):
        try:
            cameras[name] = np.array(numbers, dtype=np.float64).reshape(NUM_CAMERA_VALUES)
        except (TypeError, ValueError, OverflowError):
            cameras[name] = np.full(NUM_CAMERA_VALUES, np.nan)
    keep(lambda c: np.isfinite(c).all(-1), f"must be {NUM_CAMERA_VALUES} finite numbers")
    keep(
        lambda c: is_rigid(split_camera(c)[0]),
        "the first 16 numbers are not a camera-to-world matrix",
    )
    keep(
        lambda c: has_plausible_intrinsics(split_camera(c)[1]),
        "the last 9 numbers are not plausible intrinsics; divide pixels by the side of the images",
    )
    if not cameras:
        name, problem = next(iter(problems.items()), ("the file", "empty"))
        raise UserError(f"camera file {path} has no usable camera: {name}: {problem}")
    convention = _require_convention(_stack(cameras), path)
    keep(
        lambda c: camera_conventions(c) == convention,
        "looks away from the head, or is upside down",
    )
    values, note = _stack(cameras), ""
    if convention == "opengl":
        values = exchange_axes(values)
        note = "converted from OpenGL axes, as in IDE-3D, to OpenCV's."
    return SideFile(dict(zip(cameras, map(tuple, values.tolist()), strict=True)), problems, note)


def camera_conventions(
    cameras: np.ndarray,  # [N, 25]
) -> np.ndarray:  # [N] str: "opencv", "opengl" or ""
    """Determine the axes of cameras, assuming that they look upright at the head at the origin.

    OpenCV's z axis points forward and its y axis down; OpenGL's point the opposite way. "" means
    neither.
    """
    poses, _ = split_camera(cameras)
    is_opengl = looks_away(poses)
    return np.where(is_opengl != has_y_up(poses), "", np.where(is_opengl, "opengl", "opencv"))


def _read_mapping(path: Path, what: str, values: str) -> Mapping[str, Any]:
    content = parse_json(read_text(path, what), f"{what} {path}")
    if not isinstance(content, dict):
        raise UserError(f"{what} {path} must be {{name: {values}}}")
    return content


def _read_folder(path: Path, what: str) -> dict[str, str]:
    """Return the texts of all NAME.txt by NAME."""
    files = sorted(path.rglob("*.txt"))
    names = [file.relative_to(path).with_suffix("").as_posix() for file in files]
    return {name: read_text(file, what) for name, file in zip(names, files, strict=True)}


def _require_some(values: Mapping[str, Any], path: Path, what: str) -> Mapping[str, Any]:
    if not values:
        raise UserError(f"{what} {path} are empty")
    return values


def _read_lines(path: Path) -> Iterable[tuple[Any, Any]]:
    for number, line in enumerate(read_text(path, "captions").splitlines(), start=1):
        if line.strip():
            where = f"captions {path}, line {number}"
            yield _pick(parse_json(line, where), where)


def _read_csv(path: Path) -> Iterable[tuple[Any, Any]]:
    rows = list(csv.reader(read_text(path, "captions").splitlines(keepends=True)))
    header = [title.strip().lower() for title in rows[0]] if rows else []
    is_headed = bool(header) and header[0] in _NAME_FIELDS
    header = header if is_headed else ["name", "caption"]
    for number, row in enumerate(rows[is_headed:], start=1 + is_headed):
        where = f"captions {path}, row {number}"
        if row and len(row) != len(header):
            raise UserError(f"{where}: use {','.join(header)}; quote captions with commas")
        if row:
            yield _pick(dict(zip(header, row, strict=True)), where)


def _pick(entry: Any, where: str) -> tuple[Any, Any]:
    fields = entry if isinstance(entry, dict) else {}
    name = next((fields[key] for key in _NAME_FIELDS if key in fields), None)
    text = next((fields[key] for key in _TEXT_FIELDS if key in fields), None)
    if name is None or text is None:
        raise UserError(
            f"{where} needs one of {', '.join(_NAME_FIELDS)} and one of {', '.join(_TEXT_FIELDS)}"
        )
    return name, text


def _five_points(points: Any) -> tuple[Point, ...]:
    try:
        array = np.array(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.zeros(0)
    if array.shape == (68, 2):
        array = np.stack([array[first:end].mean(axis=0) for first, end in _FIVE_OF_68])
    if array.shape != (5, 2) or not np.isfinite(array).all():
        raise ValueError("use five points [x, y], or the 68 of iBUG")
    if array[0, 0] >= array[1, 0] or array[3, 0] >= array[4, 0]:
        raise ValueError("list the left eye and mouth corner in the image before the right ones")
    return tuple((x, y) for x, y in array.tolist())


def _parse_celeba(text: str, path: Path) -> dict[str, dict[str, float]]:
    lines = text.splitlines()
    if len(lines) < 2 or not lines[0].strip().isdigit():
        raise UserError(f"attributes {path} must start with a count and a line of names")
    names = lines[1].split()
    attributes = {}
    for number, line in enumerate(lines[2:], start=3):
        image, *values = line.split() or [""]
        if image and (len(values) != len(names) or not set(values) <= {"1", "-1"}):
            raise UserError(
                f"attributes {path}, line {number} has {len(values)} values; use a name and "
                f"{len(names)} values 1 or -1"
            )
        if image:
            attributes[image] = {n: float(v == "1") for n, v in zip(names, values, strict=True)}
    if len(attributes) != int(lines[0]):
        raise UserError(
            f"attributes {path} list {len(attributes)} images (expected {lines[0].strip()})"
        )
    return attributes


def _stack(cameras: dict[str, np.ndarray]) -> np.ndarray:  # [N, 25]
    return np.array(list(cameras.values())).reshape(-1, NUM_CAMERA_VALUES)


def _read_entries(path: Path) -> Iterable[tuple[str, Any]]:
    content = parse_json(read_text(path, "camera file"), f"camera file {path}")
    labels = content.get("labels", content) if isinstance(content, dict) else None
    entries = list(labels.items()) if isinstance(labels, dict) else labels
    is_list = isinstance(entries, list) and all(
        isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[0], str)
        for entry in entries
    )
    if not is_list:
        raise UserError(
            f'camera file {path} must be {{"labels": [[name, [25 numbers]], ...]}} or '
            "{name: [25 numbers]}"
        )
    return entries


def _require_convention(cameras: np.ndarray, path: Path) -> str:
    if are_inverted(split_camera(cameras)[0]):
        raise UserError(
            f"camera file {path} contains world-to-camera matrices (all positions are the same, "
            "but directions differ); invert them"
        )
    found = camera_conventions(cameras).tolist()
    best = max(("opencv", "opengl"), key=found.count)
    if found.count(best) < _MIN_AGREEMENT * len(cameras):
        raise UserError(
            f"camera file {path}: of {len(cameras)} cameras, {found.count('opencv')} look at the "
            f"origin with OpenCV axes and {found.count('opengl')} with OpenGL axes; all must have "
            "the same axes"
        )
    return best
