"""Checks of single values that a user gave, with messages that name the option."""

import math
from collections.abc import Sequence

from mate3d.errors import UserError


def check_number(name: str, value: object, *, above: float = -math.inf) -> float:
    """Return a user's value as a finite number above a bound.

    Raises:
        UserError: If it is not.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= above:
        bound = "" if above == -math.inf else f" above {above:g}"
        raise UserError(f"{name}={as_text(value)}; use a number{bound}")
    return float(value)


def check_range(
    name: str, value: object, low: float, high: float = math.inf, *, or_null: bool = False
) -> None:
    """Refuse what is no finite number in a range; otherwise as `check_count`."""
    if value is None and or_null:
        return
    check_number(name, value)
    if not low <= value <= high:
        allowed = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise UserError(f"{name}={value}; use a number {allowed}{' or null' if or_null else ''}")


def check_numbers(name: str, values: object) -> tuple[float, ...]:
    """Return a user's list of finite numbers.

    Raises:
        UserError: If it is empty or holds anything else.
    """
    if not is_list(values) or not values:
        raise UserError(f"{name}={as_text(values)}; use a list of numbers such as [-30,0,30]")
    return tuple(check_number(name, value) for value in values)


def check_count(name: str, value: object, low: int, high: int, *, or_null: bool = False) -> None:
    """Refuse what is no whole number in a range, bounds included.

    Args:
        name: The option.
        value: What the user gave.
        low: Smallest value.
        high: Largest value.
        or_null: Also allow None.

    Raises:
        UserError: Saying what is allowed.
    """
    if value is None and or_null:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        or_null_text = " or null" if or_null else ""
        raise UserError(f"{name}={value}; use a whole number from {low} to {high}{or_null_text}")


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse a word that is none of those allowed."""
    if value not in allowed:
        raise UserError(f"{name}={value}; use one of: {', '.join(allowed)}")


def parse_words(name: str, value: object) -> tuple[str, ...]:
    """Read a list of words, or text with commas; a word that occurs twice is taken once.

    Raises:
        UserError: If there is none.
    """
    parts = value if isinstance(value, list | tuple) else str(value or "").split(",")
    words = tuple(dict.fromkeys(str(part).strip() for part in parts))
    if not words or "" in words:
        raise UserError(f"{name}={as_text(value)}; give at least one word, several with commas")
    return words


def is_list(value: object) -> bool:
    """Tell lists and tuples from text and single values."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def as_text(value: object) -> str:
    """Write a value as it is given on the command line."""
    return "[" + ",".join(map(as_text, value)) + "]" if is_list(value) else str(value)
