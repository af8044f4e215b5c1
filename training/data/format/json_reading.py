"""JSON that others wrote: parsed, and its numbers checked."""

import json
from typing import Any

from mate3d.errors import UserError

# Larger ones are no measurement, and squares of them do not fit float32's 3.4e38 by far.
_TOO_LARGE = 1e30


def parse_json(content: bytes | str, where: str) -> Any:
    """Parse JSON, called `where` in errors.

    Raises:
        UserError: If it is not valid, or nested too deeply.
    """
    try:
        return json.loads(content)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{where} is not valid JSON: it is nested too deeply") from None


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number that float32 holds; true and false are none."""
    is_numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return is_numeric and abs(value) < _TOO_LARGE


def is_whole(value: Any, least: int, most: int) -> bool:
    """Tell whether a value is a whole number in a range, both ends included."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
