"""Geometry of the report's charts; the page draws them as inline SVG."""

from collections.abc import Sequence
from typing import Any

import numpy as np

_WIDTH, _HEIGHT, _BASE = 360, 200, 175
_MARGIN = 25
_MAX_DOTS = 2000
_TICKS = 7


def make_histogram(degrees: Sequence[float], limit: float, title: str) -> dict[str, Any]:
    """Return bars of how many angles lie in each of 36 equal bins of [-limit, limit]."""
    counts, edges = np.histogram(np.clip(degrees, -limit, limit - 1e-6), 36, (-limit, limit))
    highest = max(int(counts.max()), 1)
    step = (_WIDTH - 2 * _MARGIN) / len(counts)
    bars = [
        {
            "x": round(_MARGIN + index * step + 0.5, 1),
            "y": round(_BASE - 150 * count / highest, 1),
            "width": round(step - 1, 1),
            "height": round(150 * count / highest, 1),
            "title": f"{edges[index]:.0f} to {edges[index + 1]:.0f} degrees: {count}",
        }
        for index, count in enumerate(counts.tolist())
        if count
    ]
    return {
        "title": title,
        "width": _WIDTH,
        "height": _HEIGHT,
        "bars": bars,
        "dots": [],
        "lines": [{"x1": _MARGIN, "y1": _BASE, "x2": _WIDTH - _MARGIN, "y2": _BASE}],
        "labels": [
            *_ticks(limit),
            {"x": _MARGIN, "y": 16, "anchor": "start", "text": f"highest bar: {highest}"},
        ],
    }


def make_scatter(
    yaws: Sequence[float], pitches: Sequence[float], limit: float, title: str
) -> dict[str, Any]:
    """Return one dot a camera: yaw to the right, pitch upwards, both in degrees of +-limit."""
    # An even choice keeps the page small.
    chosen = np.linspace(0, len(yaws) - 1, min(len(yaws), _MAX_DOTS)).round().astype(int)
    x = np.clip(np.asarray(yaws)[chosen], -limit, limit)
    y = np.clip(np.asarray(pitches)[chosen], -limit / 2, limit / 2)
    scale = (_WIDTH - 2 * _MARGIN) / (2 * limit)
    middle = 20 + (_BASE - 20) / 2
    dots = [
        {"x": round(_WIDTH / 2 + scale * right, 1), "y": round(middle - scale * up, 1)}
        for right, up in zip(x.tolist(), y.tolist(), strict=True)
    ]
    return {
        "title": title,
        "width": _WIDTH,
        "height": _HEIGHT,
        "bars": [],
        "dots": dots,
        "lines": [
            {"x1": _MARGIN, "y1": round(middle, 1), "x2": _WIDTH - _MARGIN, "y2": round(middle, 1)},
            {"x1": _WIDTH / 2, "y1": 20, "x2": _WIDTH / 2, "y2": _BASE},
        ],
        "labels": _ticks(limit),
    }


def _ticks(limit: float) -> list[dict[str, Any]]:
    return [
        {
            "x": round(_WIDTH / 2 + (_WIDTH / 2 - _MARGIN) * angle / limit, 1),
            "y": _HEIGHT - 8,
            "anchor": "middle",
            "text": f"{angle:.0f}°",
        }
        for angle in np.linspace(-limit, limit, _TICKS)
    ]
