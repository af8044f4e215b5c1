"""Every experiment and ablation trains in tiny sizes, is stopped or killed, resumes, finishes."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mate3d.checkpoint import load_generator
from scripts import prepare_data, train
from scripts._words import script_groups
from training.run_folder.monitor import Monitor

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def make_words(tmp_path_factory) -> Callable[[str], list[str]]:
    """Return a function from an experiment to words for `scripts.train`."""
    folder = tmp_path_factory.mktemp("portraits")
    for kind in ("cat", "person"):
        words = ["debug=tiny", f"dataset=procedural_{kind}", f"paths.outputs={folder}"]
        prepare_data.main([*words, f"output={folder / kind}"])
    faces = folder / "faces"

    def make(experiment: str) -> list[str]:
        kind = "cat" if "cat" in experiment else "person"
        words = ["debug=tiny", f"experiment={experiment}", f"data={folder / kind}"]
        if experiment == "catmask_512":
            if not faces.exists():
                first = ["train.total_kimg=0.004", f"output={faces}"]
                train.main([*make("ffhq_mask_512"), *first])
            words.append(f"init_from={faces}")
        return words

    return make


def images_at_ticks(folder: Path) -> list[int]:
    path = folder / "stats.jsonl"
    # A running process may have written a part of its last line.
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    records = [json.loads(line) for line in lines]
    # Metrics of a snapshot are a record of their own.
    return [round(1000 * r["Progress/kimg"]) for r in records if "Progress/kimg" in r]


def check_finished(folder: Path, experiment: str) -> None:
    ticks = images_at_ticks(folder)
    # The stages' images come before those of the adversarial training.
    assert len(ticks) >= 3 and ticks[-1] >= 48
    generator = load_generator(folder / "checkpoint")
    labels = "catmask_hq" if "cat" in experiment else "celebamask_hq"
    assert generator.config.label_set == labels


def stop_after_first_tick(monkeypatch) -> None:
    """Send SIGTERM to this process at the first tick, and at no other."""
    tick = Monitor.tick

    def tick_and_stop(self, *args, **kwargs):
        monkeypatch.setattr(Monitor, "tick", tick)
        result = tick(self, *args, **kwargs)
        signal.raise_signal(signal.SIGTERM)
        return result

    monkeypatch.setattr(Monitor, "tick", tick_and_stop)


@pytest.mark.parametrize(
    "ablation",
    [
        [],
        *(
            pytest.param([f"ablation={name}"], marks=pytest.mark.slow)
            for name in script_groups("train")["ablation"]
        ),
    ],
    ids=str,
)
def test_run_is_stopped_resumes_and_finishes(make_words, tmp_path, monkeypatch, capsys, ablation):
    words = [*make_words("demo_cat"), f"output={tmp_path}", *ablation]
    capsys.readouterr()
    stop_after_first_tick(monkeypatch)
    train.main(words)
    assert "resume=true" in capsys.readouterr().out.splitlines()[-1]
    assert len(images_at_ticks(tmp_path)) == 1
    train.main([*words, "resume=true"])
    assert "done:" in capsys.readouterr().out
    check_finished(tmp_path, "demo_cat")


@pytest.mark.slow
@pytest.mark.parametrize("experiment", script_groups("train")["experiment"])
def test_run_is_killed_resumes_and_finishes(make_words, tmp_path, experiment):
    command = [sys.executable, "-m", "scripts.train", *make_words(experiment)]
    command += [f"output={tmp_path}"]
    process = subprocess.Popen(
        [*command, "train.total_kimg=100.0"], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while len(images_at_ticks(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    result = subprocess.run(
        [*command, "resume=true"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    check_finished(tmp_path, experiment)
