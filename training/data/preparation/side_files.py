"""Landmarks and attributes in files beside the photos."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mate3d.errors import UserError
from training.data.format.json_reading import is_number
from training.data.preparation.camera_files import read_json
from training.data.preparation.raw_item import Point

# First and last point, inclusive and exclusive, of each of the five among the 68 of the iBUG
# annotation (Sagonas et al. 2013): eyes are outlines, the others single points.
_FIVE_OF_68 = ((36, 42), (42, 48), (30, 31), (48, 49), (54, 55))


def read_landmarks(path: Path) -> tuple[dict[str, tuple[Point, ...]], dict[str, str]]:
    """Read landmarks: JSON {name: points} or a folder of NAME.txt with one "x y" a line.

    There are five points, or the 68 of the iBUG annotation, which are reduced to five.

    Returns:
        Five points by name, in the order of `RawItem.landmarks`; and why other names have none.

    Raises:
        UserError: If the file or folder is missing, malformed or empty.
    """
    if path.is_dir():
        texts = {file: _read_text(file) for file in sorted(path.rglob("*.txt"))}
        found = {
            file.relative_to(path).with_suffix("").as_posix(): [
                line.replace(",", " ").split() for line in text.splitlines() if line.strip()
            ]
            for file, text in texts.items()
        }
    else:
        found = _require_mapping(read_json(path, "landmark file"), path, "five points [x, y]")
    if not found:
        raise UserError(f"{path} holds no landmarks")
    landmarks: dict[str, tuple[Point, ...]] = {}
    problems: dict[str, str] = {}
    for name, points in found.items():
        try:
            landmarks[name] = _five_points(points)
        except ValueError as error:
            problems[name] = f"landmarks: {error}"
    return landmarks, problems


def read_attributes(path: Path) -> dict[str, dict[str, float]]:
    """Read attributes: JSON {name: {attribute: number}}, or a text file as CelebA's.

    CelebA's has the number of images, the names of the attributes, and for each image a line
    with its name and 1 or -1 an attribute; -1 becomes 0.

    Raises:
        UserError: If the file is missing or malformed.
    """
    if path.suffix.lower() != ".json":
        return _parse_celeba(_read_text(path), path)
    found = _require_mapping(read_json(path, "attribute file"), path, "{attribute: number}")
    for name, values in found.items():
        numbers = values.values() if isinstance(values, dict) else [None]
        if not all(isinstance(number, bool) or is_number(number) for number in numbers):
            raise UserError(f"{path}: attributes of {name} must be {{attribute: finite number}}")
    return {name: {a: float(v) for a, v in values.items()} for name, values in found.items()}


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
        raise ValueError("the eye and the mouth corner at the image's left come before the right")
    return tuple((x, y) for x, y in array.tolist())


def _parse_celeba(text: str, path: Path) -> dict[str, dict[str, float]]:
    lines = text.splitlines()
    if len(lines) < 2 or not lines[0].strip().isdigit():
        raise UserError(f"attribute file {path} must begin with a count and a line of names")
    names = lines[1].split()
    attributes = {}
    for number, line in enumerate(lines[2:], start=3):
        if not line.strip():
            continue
        image, *values = line.split()
        if len(values) != len(names) or not set(values) <= {"1", "-1"}:
            raise UserError(
                f"attribute file {path}, line {number}: a name and {len(names)} values 1 or -1 are "
                f"needed, it has {len(values)} values"
            )
        attributes[image] = {
            name: float(value == "1") for name, value in zip(names, values, strict=True)
        }
    if len(attributes) != int(lines[0]):
        raise UserError(
            f"attribute file {path} announces {lines[0].strip()} images and has {len(attributes)}"
        )
    return attributes


def _require_mapping(content: Any, path: Path, values: str) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{path} must be {{name: {values}}}")
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable text file: {error}") from None
