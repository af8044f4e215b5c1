"""The chart of a run is drawn from what was measured; a run without it gives one line."""

import json
import re

import pytest
from PIL import Image

from docs.plot_run import main


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    (folder / "samples").mkdir(parents=True)
    records = [{"images_seen": 1000}, {"images_seen": 2000, "Metrics/miou": 0.5}]
    (folder / "stats.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    (folder / "config.yaml").write_text("train: {grid_columns: 3}")
    for kind in ("image", "segmentation"):
        Image.new("RGB", (12, 4)).save(folder / "samples" / f"{2000:09d}_{kind}.png")
    return folder


def test_picture_shows_the_metric_over_the_samples(run_folder):
    main(["run", "out.png", "Metrics/miou"])
    with Image.open("out.png") as picture:
        # The chart and one row of 2 x 3 tiles.
        assert picture.size == (900, 260 + 140)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "out.png"], "no Metrics/fid_procedural; it has Metrics/miou"),
        (["nowhere", "out.png"], "it has no metrics"),
        (["run", "out/of/reach.png", "Metrics/miou"], "reach.png"),
    ],
)
def test_mistakes_are_one_line(run_folder, fail, words, message):
    assert re.search(message, fail(main, *words))
