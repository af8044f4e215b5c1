"""The page about a run is whole, self-contained and true, whatever the run folder lacks."""

import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from tests.pages import Page
from training.run_folder.events import log_event
from training.run_folder.grids import save_grids
from training.run_folder.summary import format_duration, write_summary


def write_stats(folder, eta=100.0):
    lines = []
    for tick in range(1, 61):
        record = {
            "images_seen": 1000 * tick,
            "Loss/G/loss": 2.0 + math.sin(tick),
            "Loss/D/loss": math.nan if tick == 7 else 0.5,
            "Loss/G_eikonal/loss": 10.0 ** (-tick / 10),
            "Loss/G_eikonal/weighted": 10.0 ** (-tick / 10) / 10,
            "Loss/scores/fake": -1.0,
            "Progress/blur_sigma": 10.0 - tick / 10,
            "Augment/probability": tick / 100,
            "Timing/images_per_sec": 20.0,
            "Timing/eta_sec": eta,
        }
        if tick % 20 == 0:
            fid = {20: 80.0, 40: 40.5, 60: 55.0}[tick]
            record |= {"Metrics/fid_procedural": fid, "Metrics/miou": fid / 100}
        lines.append(json.dumps(record))
    # A kill cut the last line short.
    (folder / "stats.jsonl").write_text("\n".join([*lines, '{"images_seen": 61000, "Loss/G']))


@pytest.fixture
def run_folder(tmp_path):
    """An unfinished run of 60 thousand images with two snapshots, a rollback and a resume."""
    write_stats(tmp_path)
    (tmp_path / "config.yaml").write_text(
        "# Resolved options of a run of scripts.train\n"
        "data: datasets/cats.zip\ntrain:\n  batch_size: 4\n  seed: null\n"
        "model:\n  generator:\n    label_set: catmask_hq\n"
    )
    log_event(tmp_path, "rollback", 30000, "Loss/G/loss is <nan>", lr_factor=0.5)
    log_event(tmp_path, "resume", 40000, "resumed")
    save_grids(tmp_path / "samples", {"real_image": torch.ones(3, 16, 32)}, 0)
    for images in (20000, 60000):
        grids = {"image": torch.zeros(3, 16, 32), "sdf_slices": torch.zeros(3, 40, 60)}
        save_grids(tmp_path / "samples", grids, images)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "card.md").write_text(
        "# MaTe3D generator\n\n- command: `python -m scripts.train 'data=my cats.zip'`\n- data: x\n"
    )
    return tmp_path


def read_page(folder, command=""):
    return Page(write_summary(folder, command).read_text(encoding="utf-8"))


def test_page_tells_everything_and_needs_no_other_file(run_folder):
    page = read_page(run_folder)
    assert page.sources and all(source.startswith("data:image/") for source in page.sources)
    assert "script" not in page.tags and "link" not in page.tags
    for part in (
        "Not complete. 60 thousand images seen, about 97 %",
        "1m 40s left at the last tick",
        "python -m scripts.train 'data=my cats.zip' resume=true",
        "40.5 best fid procedural, at 40 kimg",
        "0.8 best miou, at 20 kimg",
        "Samples now, at 60 kimg",
        "The same heads at 20 kimg",
        "Data real image",
        "train.batch_size 4",
        "train.seed null",
        "model.generator.label_set catmask_hq",
        "Loss/G/loss is <nan> lr_factor=0.5",
    ):
        assert part in page.text
    assert page.text.index("image sdf slices") > page.text.index("ears")
    # Newest first.
    assert page.text.index("resume resumed") < page.text.index("rollback Loss")
    given = read_page(run_folder, "python -m scripts.train output=a resume=auto").text
    assert "python -m scripts.train output=a resume=true" in given


def test_charts_have_titles_and_their_sections(run_folder):
    page = write_summary(run_folder).read_text()
    titles = re.findall(r'aria-label="([^"]+)"', page)
    adversarial = "generator and discriminators"
    assert {"fid procedural", "G eikonal (logarithmic)", adversarial, "blur sigma"} <= set(titles)
    shown, others = page.split("All other values")
    assert '"Augment/probability"' in shown and "weighted" not in shown
    assert '"scores/fake"' in others


def test_complete_run_needs_no_command_and_stopped_run_says_so(run_folder):
    log_event(run_folder, "stop", 60000, "SIGTERM")
    assert "Stopped. 60 thousand images seen" in read_page(run_folder).text
    write_stats(run_folder, eta=0.0)
    text = read_page(run_folder).text
    assert "Complete." in text and "resume=true" not in text


def test_damaged_and_missing_files_are_left_out(run_folder, tmp_path):
    (run_folder / "config.yaml").write_text("a: [")
    (run_folder / "samples" / "000060000_image.png").write_bytes(b"no picture")
    (run_folder / "checkpoint" / "card.md").write_bytes(b"\xff")
    text = read_page(run_folder).text
    assert "Samples now, at 60 kimg sdf slices" in text
    assert "resume=true" not in text
    folder = tmp_path / "earlier version"
    folder.mkdir()
    assert "No tick yet." in read_page(folder).text
    (folder / "stats.jsonl").write_text('{"images_seen": 2000, "Loss/G/loss": 1.0}\n')
    text = read_page(folder).text
    assert "Not complete. 2 thousand images seen." in text and "None." in text


def test_large_pictures_are_shrunk(run_folder):
    picture = np.random.default_rng(0).integers(0, 256, (200, 3200, 3), dtype=np.uint8)
    Image.fromarray(picture).save(run_folder / "samples" / "000060000_image.png")
    page = write_summary(run_folder)
    assert "data:image/jpeg" in page.read_text() and page.stat().st_size < 1_500_000


def test_durations_have_two_units():
    seconds = (9.4, 428, 18360, 3 * 86400 + 14400, 59.6, math.inf)
    texts = ["9s", "7m 08s", "5h 06m", "3d 04h", "1m 00s", "?"]
    assert [format_duration(one) for one in seconds] == texts
