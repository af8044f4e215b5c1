"""Charts stay inside their frames and show what is there."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from mate3d.outputs.charts import make_chart, make_histogram, make_spark_lines
from mate3d.outputs.page import render_page


def paths(chart):
    """Return the points of each path, [N, 2], in their order."""
    numbers = [re.findall(r"[-\d.]+", one["d"]) for tag, one, _ in chart["shapes"] if tag == "path"]
    return [np.array(one, dtype=float).reshape(-1, 2) for one in numbers]


def attributes(chart, tag):
    return [one for name, one, _ in chart["shapes"] if name == tag]


def test_long_curve_is_thinned_but_keeps_its_peaks():
    y = np.ones(10000)
    y[5000] = 1.5
    band, line = paths(make_chart("", {"": np.stack([np.arange(10000.0), y])}))
    assert len(line) < 400 and band[:, 1].min() < 25


def test_smoothing_keeps_slopes_and_leaves_other_curves_alone():
    x = np.arange(100.0)
    curves = {"": np.stack([x, x + np.where(x % 2 == 0, 2, -2)])}
    faint, smoothed = paths(make_chart("", curves, with_smoothing=True))
    (plain,) = paths(make_chart("", curves))
    assert np.array_equal(faint, plain)
    assert (np.diff(smoothed[1:-1, 1]) < 0).all()


@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [-2.0, -2.0], [1e-9, 1e9], [0.0, 1e-30]])
def test_odd_ranges_have_ticks(values):
    chart = make_chart("", {"": np.stack([np.arange(len(values)) + 1.0, values])}, with_log=True)
    heights = [one["y"] - 4 for one in attributes(chart, "text") if one["text-anchor"] == "end"]
    assert len(heights) >= 2 and all(12 <= height <= 182 for height in heights)


def test_spark_lines_fill_their_frame_each_by_itself():
    chart = make_spark_lines("", {"a": [1.0, 3.0, 2.0], "b": [5e6, 5e6]})
    rising, level = paths(chart)
    assert rising.tolist() == [[0, 114], [300, 6], [600, 60]] and set(level[:, 1]) == {114}
    assert [(one["first"], one["last"]) for one in chart["key"]] == [("1", "2"), ("5e+06", "5e+06")]


def test_angles_are_counted_and_clipped():
    bars = attributes(make_histogram([-200.0, 0.0, 1.0, 200.0], 90, ""), "rect")
    assert [bar["height"] for bar in bars] == [75, 150, 75]
    assert bars[0]["x"] == 25.5 and bars[-1]["x"] + bars[-1]["width"] == pytest.approx(334.5, 0.01)


def test_page_draws_shapes_and_escapes_texts():
    chart = make_histogram([0.0], 90, "<b> & 'c'")
    page = render_page("dataset_check", charts=[chart], verdict={}, title="<script>")
    assert "<script>" not in page and "&lt;b&gt; &amp;" in page
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", page, re.DOTALL)[0])
    assert svg.get("aria-label") == "<b> & 'c'"
    assert svg.find("rect/title").text == "0 to 5 degrees: 1"
    assert "highest bar: 1" in {one.text for one in svg.iter("text")}
