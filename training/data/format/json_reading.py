"""JSON that others wrote: parsed, and its numbers checked."""

import json
from pathlib import Path
from typing import Any

from mate3d.errors import UserError

# Larger ones are no measurement, and squares of them do not fit float32's 3.4e38 by far.
_TOO_LARGE = 1e30


def read_text(path: Path, what: str) -> str:
    """Read a text file, called `what` in errors; a byte order mark is left out.

    Raises:
        UserError: If it is missing or no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{what} not found: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} cannot be read: {error}") from None


def parse_json(content: bytes | str, where: str) -> Any:
    """Parse JSON, called `where` in errors.

    Raises:
        UserError: If it is not valid, or nested too deeply.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{where} is not valid JSON: {reason}") from None


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number that float32 holds; true and false are none."""
    is_numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return is_numeric and abs(value) < _TOO_LARGE


def is_whole(value: Any, least: int, most: int) -> bool:
    """Tell whether a value is a whole number in a range, both ends included."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
