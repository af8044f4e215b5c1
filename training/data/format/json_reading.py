"""Parsing of external text and JSON files, and checks of their numbers."""

import json
from pathlib import Path
from typing import Any

from mate3d.errors import UserError

# Larger numbers are not measurements, and their squares overflow float32.
_TOO_LARGE = 1e30


def read_text(path: Path, what: str) -> str:
    """Read a text file without byte order mark; error messages start with `what`.

    Raises:
        UserError: If it is missing or not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{what} not found: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {what} {path}: {error}") from None


def parse_json(content: bytes | str, where: str) -> Any:
    """Parse JSON; error messages start with `where`.

    Raises:
        UserError: If it is invalid, or nested too deeply.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{where} is not valid JSON: {reason}") from None


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number in the range of float32; booleans are not."""
    is_numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return is_numeric and abs(value) < _TOO_LARGE


def is_whole(value: Any, least: int, most: int) -> bool:
    """Return whether a value is an integer in a range, including both ends."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
