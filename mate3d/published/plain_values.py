"""Plain values of snapshots: their text in messages, and numbers among them."""

from typing import Any

import numpy as np
from torch import Tensor

_MAX_NUMBER = 1e9


def shown(value: object) -> str:
    """Format a value from the file for a message: short, ASCII."""
    if isinstance(value, str):
        # Cut first, because a text may be as long as the file.
        value = str(value[:160])
    is_plain = isinstance(value, str | int | float | None)
    text = ascii(value) if is_plain else type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."


def plain_numbers(value: Any) -> Any:
    """Return a short array or tensor of numbers as a list or number, else the value itself."""
    found = getattr(value, "values", value)
    if isinstance(found, Tensor) and found.numel() <= 16:
        # Rounded, because 0.1 as float32 is not exactly 0.1.
        found = found.double().numpy().round(6)
    is_short = isinstance(found, np.ndarray) and found.size <= 16 and found.dtype.kind in "biuf"
    return found.tolist() if is_short else value


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number that settings can have; booleans are not."""
    return type(value) in (int, float) and abs(value) <= _MAX_NUMBER
