"""Captions from files: JSON, JSON lines, CSV, or one text file a photo."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mate3d.errors import UserError
from training.data.preparation.camera_files import read_json

_NAME_FIELDS = ("file_name", "name", "image")
_TEXT_FIELDS = ("text", "caption")


def read_captions(path: Path) -> dict[str, str]:
    """Read captions by the name of the photo.

    The forms are .json {name: text}, .jsonl with an object {"file_name": ..., "text": ...} a line
    as in an image folder of Hugging Face, .csv with the columns name and caption, and a folder of
    NAME.txt. White space is reduced to single spaces.

    Raises:
        UserError: If the file is missing, malformed or empty, or names a photo twice.
    """
    if not path.exists():
        raise UserError(f"captions not found: {path}")
    readers = {".json": _read_json, ".jsonl": _read_lines, ".csv": _read_csv}
    suffix = path.suffix.lower()
    if not path.is_dir() and suffix not in readers:
        raise UserError(f"captions {path}: use .json, .jsonl, .csv or a folder of NAME.txt")
    read = _read_folder if path.is_dir() else readers[suffix]
    captions: dict[str, str] = {}
    try:
        for name, text in read(path):
            if not isinstance(name, str) or not isinstance(text, str):
                raise UserError(f"captions {path}: {name!r} must be a name with a text")
            if name in captions:
                raise UserError(f"captions {path} names {name} twice")
            captions[name] = " ".join(text.split())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"captions {path} are not readable: {error}") from None
    if not captions:
        raise UserError(f"captions {path} are empty")
    return captions


def _read_json(path: Path) -> Iterable[tuple[Any, Any]]:
    content = read_json(path, "caption file")
    if not isinstance(content, dict):
        raise UserError(f"captions {path} must be {{name: text}}")
    return content.items()


def _read_lines(path: Path) -> Iterable[tuple[Any, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise UserError(f"captions {path}, line {number} is not JSON: {error}") from None
        yield _pick(entry, f"captions {path}, line {number}")


def _read_csv(path: Path) -> Iterable[tuple[Any, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        header: list[str] | None = None
        for number, row in enumerate(rows, start=1):
            if number == 1 and row and row[0].strip().lower() in _NAME_FIELDS:
                header = [field.strip().lower() for field in row]
            elif header is not None and row:
                entry = dict(zip(header, row, strict=False))
                yield _pick(entry, f"captions {path}, row {number}")
            elif row:
                if len(row) != 2:
                    raise UserError(f"captions {path}, row {number}: use name,caption")
                yield row[0], row[1]


def _read_folder(path: Path) -> Iterable[tuple[Any, Any]]:
    for file in sorted(path.rglob("*.txt")):
        yield file.relative_to(path).with_suffix("").as_posix(), file.read_text(encoding="utf-8")


def _pick(entry: Any, where: str) -> tuple[Any, Any]:
    fields = entry if isinstance(entry, dict) else {}
    name = next((fields[key] for key in _NAME_FIELDS if key in fields), None)
    text = next((fields[key] for key in _TEXT_FIELDS if key in fields), None)
    if name is None or text is None:
        raise UserError(
            f"{where} needs one of {', '.join(_NAME_FIELDS)} and one of {', '.join(_TEXT_FIELDS)}"
        )
    return name, text
