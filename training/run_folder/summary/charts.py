"""Geometry of the page's charts; the page draws them as inline SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH, HEIGHT = 420, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 400, 12, 182
_COLORS = ("#2563eb", "#dc2626", "#059669", "#9333ea", "#d97706", "#0891b2")
# More points than this are shown as means over equal stretches, over a band of all values.
_MAX_POINTS = 200
_MIN_SMOOTHED = 30
# A value this many times another needs a logarithmic axis.
_LOG_RATIO = 50.0
_NUM_TICKS = 4


@dataclass(frozen=True)
class Curve:
    """Values over images.

    Args:
        x: Images seen, [N], ascending.
        y: Values, [N]; what is not finite is a gap.
    """

    x: np.ndarray
    y: np.ndarray


def make_chart(
    title: str,
    curves: Mapping[str, Curve],
    *,
    marks: Sequence[float] = (),
    with_dots: bool = False,
    with_log: bool = False,
    with_smoothing: bool = False,
) -> dict[str, Any]:
    """Return what the template draws.

    Args:
        title: Stands above.
        curves: By the names of the key, at least one of them with a finite value.
        marks: Images seen where something happened; dashed lines.
        with_dots: Show each point: for values that are few and apart.
        with_log: Take a logarithmic axis if the values are positive and far apart.
        with_smoothing: Draw the mean over a tenth of a long curve, and the curve faintly.
    """
    finite = np.concatenate([curve.y[np.isfinite(curve.y)] for curve in curves.values()])
    right = max(*(curve.x[-1] for curve in curves.values()), 1)
    is_log = bool(with_log and finite.min() > 0 and finite.max() / finite.min() > _LOG_RATIO)
    low, high = _range(finite, is_log)
    shares = np.log10 if is_log else np.asarray

    def place_x(x: np.ndarray) -> np.ndarray:
        return _LEFT + (_RIGHT - _LEFT) * x / right

    def place_y(y: np.ndarray) -> np.ndarray:
        share = (shares(y) - shares(low)) / (shares(high) - shares(low))
        return _BOTTOM - (_BOTTOM - _TOP) * np.clip(share, 0, 1)

    lines = []
    for (name, curve), color in zip(curves.items(), _colors(), strict=False):
        keep = np.isfinite(curve.y)
        x, y = place_x(curve.x[keep]), place_y(curve.y[keep])
        band, x, y = _thin(x, y)
        is_smoothed = with_smoothing and len(y) >= _MIN_SMOOTHED
        lines.append(
            {
                "name": name,
                "color": color,
                "path": _path(x, _smooth(y) if is_smoothed else y),
                "faint": _path(x, y) if is_smoothed else "",
                "band": band,
                "dots": _points(x, y) if with_dots or len(y) == 1 else [],
                "last": format_value(curve.y[keep][-1]) if keep.any() else "not finite",
            }
        )
    scale, unit = (1e6, "M") if right >= 2e6 else (1e3, "k") if right >= 2e3 else (1.0, "")
    y_ticks = _log_ticks(low, high) if is_log else _ticks(low, high)
    return {
        "title": title + (" (logarithmic)" if is_log else ""),
        "width": WIDTH,
        "height": HEIGHT,
        "frame": {"left": _LEFT, "right": _RIGHT, "top": _TOP, "bottom": _BOTTOM},
        "lines": lines,
        "marks": [round(float(place_x(np.asarray(mark))), 1) for mark in marks if mark <= right],
        "x_ticks": [
            {
                "at": round(float(place_x(np.asarray(tick * scale))), 1),
                "text": f"{tick:g}{unit if tick else ''}",
            }
            for tick in _ticks(0, right / scale)
        ],
        "y_ticks": [
            {"at": round(float(place_y(np.asarray(tick))), 1), "text": format_value(tick)}
            for tick in y_ticks
        ],
    }


def has_points(curve: Curve) -> bool:
    """Tell whether anything of a curve can be drawn."""
    return bool(np.isfinite(curve.y).any())


def format_value(value: float) -> str:
    """Return a number with three or four digits that count."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2g}"
    return f"{value:.4g}"


def _colors() -> list[str]:
    return list(_COLORS) * 4


def _range(values: np.ndarray, is_log: bool) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if is_log:
        return low / 1.1, high * 1.1
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        # A constant lies in the middle, not on the edge.
        margin = 0.5 * abs(high) or 1.0
    else:
        margin = 0.05 * (high - low)
    # Zero is where most of these values start or end; do not go just below it.
    return (0.0 if low >= 0 > low - margin else low - margin), high + margin


def _ticks(low: float, high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10((high - low) / _NUM_TICKS))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    step = max(1, len(exponents) // _NUM_TICKS)
    ticks = [10.0**exponent for exponent in exponents if exponent % step == 0]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside if len(inside) > 1 else [low, high]


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
    """Return a band of all values ("" if all points are kept), and points for a line."""
    if len(x) <= _MAX_POINTS:
        return "", x, y
    parts_x, parts_y = np.array_split(x, _MAX_POINTS), np.array_split(y, _MAX_POINTS)
    middle = np.array([part.mean() for part in parts_x])
    upper = np.array([part.min() for part in parts_y])
    lower = np.array([part.max() for part in parts_y])
    band = _path(np.concatenate([middle, middle[::-1]]), np.concatenate([upper, lower[::-1]]))
    return band + "Z", middle, np.array([part.mean() for part in parts_y])


def _smooth(y: np.ndarray) -> np.ndarray:
    """Return means over a tenth of the curve around each point, and over less near the ends."""
    places = np.arange(len(y))
    # As far to both sides, so that a slope is not pulled towards the middle.
    reach = np.minimum(np.minimum(places, places[::-1]), len(y) // 20)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)


def _points(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    return [(round(a, 1), round(b, 1)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]


def _path(x: np.ndarray, y: np.ndarray) -> str:
    return "M" + "L".join(f"{a:g} {b:g}" for a, b in _points(x, y)) if len(x) else ""
