"""Charts for HTML pages, as lists of SVG elements that `parts.html.j2` writes."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# A tag, its attributes, and a text: the content of a "text" element, the tooltip of any other.
Shape = tuple[str, dict[str, Any], str]

WIDTH, HEIGHT = 420, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 400, 12, 182
_COLORS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#4b5563")
_GRID, _AXIS = "#e5e7eb", "#9ca3af"
# Longer curves are drawn as means over equal intervals, with a band that covers all values.
_MAX_POINTS = 200
_MIN_SMOOTHED = 30
# From this ratio of the largest to the smallest value on, the axis is logarithmic.
_LOG_RATIO = 50.0
_NUM_TICKS = 4
_SPARK_WIDTH, _SPARK_HEIGHT = 600, 120
_ANGLE_WIDTH, _ANGLE_HEIGHT, _ANGLE_BASE, _ANGLE_MARGIN = 360, 200, 175, 25
_ANGLE_TICKS, _ANGLE_BINS = 7, 36


def make_chart(
    title: str,
    curves: Mapping[str, np.ndarray],  # name -> [2, N]: images seen, ascending, and finite values
    *,
    marks: Sequence[float] = (),
    with_dots: bool = False,
    with_log: bool = False,
    with_smoothing: bool = False,
) -> dict[str, Any]:
    """Return a chart with axes: curves over the number of images seen.

    Args:
        curves: Curves by name; none is empty.
        marks: Positions of dashed vertical lines, in images seen.
        with_dots: Draw each point, for few values.
        with_log: Use a logarithmic axis if values are positive and span a large range.
        with_smoothing: Draw long curves smoothed over a tenth of their length, and faintly as is.
    """
    values = np.concatenate([y for _, y in curves.values()])
    right = max(*(x[-1] for x, _ in curves.values()), 1)
    is_log = bool(with_log and values.min() > 0 and values.max() / values.min() > _LOG_RATIO)
    low, high = _range(values, is_log)
    shares = np.log10 if is_log else np.asarray

    def place_x(x: float | np.ndarray) -> float | np.ndarray:
        return np.interp(x, (0, right), (_LEFT, _RIGHT))

    def place_y(y: float | np.ndarray) -> float | np.ndarray:
        return np.interp(shares(y), shares((low, high)), (_BOTTOM, _TOP))

    shapes = []
    for tick in _log_ticks(low, high) if is_log else _ticks(low, high):
        y = place_y(tick)
        shapes.append(_line(_LEFT, y, _RIGHT, y, _GRID))
        shapes.append(_text(_LEFT - 6, y + 4, "end", format_value(tick)))
    scale, unit = (1e6, "M") if right >= 2e6 else (1e3, "k") if right >= 2e3 else (1.0, "")
    for tick in _ticks(0, right / scale):
        x = place_x(tick * scale)
        shapes.append(_line(x, _BOTTOM, x, _BOTTOM + 4, _AXIS))
        shapes.append(_text(x, _BOTTOM + 17, "middle", f"{tick:g}{unit if tick else ''}"))
    for x in (place_x(mark) for mark in marks if mark <= right):
        shapes.append(_line(x, _TOP, x, _BOTTOM, _AXIS, stroke_dasharray="3 3"))
    shapes.append(_line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, _AXIS))
    key = []
    for (name, (x, y)), color in zip(curves.items(), itertools.cycle(_COLORS), strict=False):
        shapes += _draw_curve(place_x(x), place_y(y), color, with_dots, with_smoothing)
        key.append({"name": name, "color": color, "last": format_value(y[-1])})
    title += " (logarithmic)" if is_log else ""
    return {"title": title, "width": WIDTH, "height": HEIGHT, "shapes": shapes, "key": key}


def make_spark_lines(title: str, curves: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return a chart without axes: curves, each scaled to its own range."""
    shapes, key = [], []
    for (name, values), color in zip(curves.items(), itertools.cycle(_COLORS), strict=False):
        y = np.asarray(values)
        y = (y - y.min()) / (np.ptp(y) or 1.0)
        path = _path(np.linspace(0, _SPARK_WIDTH, len(y)), _SPARK_HEIGHT * (0.95 - 0.9 * y))
        shapes.append(_shape("path", d=path, fill="none", stroke=color, stroke_width=1.5))
        ends = {"first": format_value(values[0]), "last": format_value(values[-1])}
        key.append({"name": name, "color": color, **ends})
    size = {"width": _SPARK_WIDTH, "height": _SPARK_HEIGHT}
    return {"title": title, **size, "shapes": shapes, "key": key}


def make_histogram(degrees: Sequence[float], limit: float, title: str) -> dict[str, Any]:
    """Return a histogram of angles in 36 equal bins of [-limit, limit]."""
    clipped = np.clip(degrees, -limit, limit - 1e-6)
    counts, edges = np.histogram(clipped, _ANGLE_BINS, (-limit, limit))
    highest = max(int(counts.max()), 1)
    step = (_ANGLE_WIDTH - 2 * _ANGLE_MARGIN) / _ANGLE_BINS
    shapes = [
        _shape(
            "rect",
            f"{edges[index]:.0f} to {edges[index + 1]:.0f} degrees: {count}",
            x=_ANGLE_MARGIN + index * step + 0.5,
            y=_ANGLE_BASE - 150 * count / highest,
            width=step - 1,
            height=150 * count / highest,
            fill=_COLORS[0],
        )
        for index, count in enumerate(counts.tolist())
        if count
    ]
    right = _ANGLE_WIDTH - _ANGLE_MARGIN
    shapes.append(_line(_ANGLE_MARGIN, _ANGLE_BASE, right, _ANGLE_BASE, _AXIS))
    shapes.append(_text(_ANGLE_MARGIN, 16, "start", f"highest bar: {highest}"))
    places = np.linspace(_ANGLE_MARGIN, right, _ANGLE_TICKS)
    angles = np.linspace(-limit, limit, _ANGLE_TICKS)
    shapes += [
        _text(x, _ANGLE_HEIGHT - 8, "middle", f"{angle:.0f}°")
        for x, angle in zip(places, angles, strict=True)
    ]
    size = {"width": _ANGLE_WIDTH, "height": _ANGLE_HEIGHT}
    return {"title": title, **size, "shapes": shapes}


def format_value(value: float) -> str:
    """Return a number with two to four significant digits."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2g}"
    return f"{value:.4g}"


def _draw_curve(
    x: np.ndarray, y: np.ndarray, color: str, with_dots: bool, with_smoothing: bool
) -> list[Shape]:
    shapes = []
    if len(x) > _MAX_POINTS:
        band, x, y = _thin(x, y)
        shapes.append(_shape("path", d=band, fill=color, fill_opacity=0.12))
    line = {"fill": "none", "stroke": color}
    if with_smoothing and len(y) >= _MIN_SMOOTHED:
        faint = {"stroke_opacity": 0.35, "stroke_width": 1}
        shapes.append(_shape("path", d=_path(x, y), **line, **faint))
        y = _smooth(y)
    shapes.append(_shape("path", d=_path(x, y), **line, stroke_width=1.6, stroke_linejoin="round"))
    if with_dots or len(y) == 1:
        shapes += [_dot(*point, 2.5, color) for point in zip(x, y, strict=True)]
    return shapes


def _range(values: np.ndarray, is_log: bool) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if is_log:
        return low / 1.1, high * 1.1
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        # A constant curve is drawn in the middle of the chart, not at its edge.
        margin = 0.5 * abs(high) or 1.0
    else:
        margin = 0.05 * (high - low)
    # Most values start or end at zero, so the axis does not go slightly below it.
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
    """Return a band that covers all values, and points for a line."""
    parts_x, parts_y = np.array_split(x, _MAX_POINTS), np.array_split(y, _MAX_POINTS)
    middle = np.array([part.mean() for part in parts_x])
    upper = np.array([part.min() for part in parts_y])
    lower = np.array([part.max() for part in parts_y])
    band = _path(np.concatenate([middle, middle[::-1]]), np.concatenate([upper, lower[::-1]]))
    return band + "Z", middle, np.array([part.mean() for part in parts_y])


def _smooth(y: np.ndarray) -> np.ndarray:
    """Return means over a tenth of the curve around each point, over less near the ends."""
    places = np.arange(len(y))
    # The window is symmetric, so that the ends of a slope do not bend towards its middle.
    reach = np.minimum(np.minimum(places, places[::-1]), len(y) // 20)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    points = zip(x.round(1).tolist(), y.round(1).tolist(), strict=True)
    return "M" + "L".join(f"{a:g} {b:g}" for a, b in points)


def _line(x1: float, y1: float, x2: float, y2: float, color: str, **more: str) -> Shape:
    return _shape("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=color, **more)


def _text(x: float, y: float, anchor: str, text: str) -> Shape:
    return _shape("text", text, x=x, y=y, text_anchor=anchor)


def _dot(x: float, y: float, radius: float, color: str, **more: float) -> Shape:
    return _shape("circle", cx=x, cy=y, r=radius, fill=color, **more)


def _shape(tag: str, text: str = "", /, **attributes: str | float) -> Shape:
    plain = {
        name.replace("_", "-"): value if isinstance(value, str) else round(float(value), 2)
        for name, value in attributes.items()
    }
    return tag, plain, text
