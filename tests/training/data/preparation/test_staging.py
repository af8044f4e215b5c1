"""Preparing a data set: what is done is kept, what fails is told, nothing is half-written."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mate3d.cameras import make_camera
from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ
from training.data.dataset import PortraitDataset
from training.data.format import open_dataset
from training.data.preparation.prepare import OutputSettings, prepare_dataset
from training.data.preparation.samples import FailedSample, Job, make_sample

SETTINGS = {"dataset": "noise", "resolution": 8}


class NoiseMaker:
    """Makes noise; remembers what it made, and can stop at or leave out a sample."""

    def __init__(self, *, stop_at: str | None = None, bad: str | None = None):
        self.made: list[str] = []
        self._stop_at, self._bad = stop_at, bad

    def __call__(self, job: Job):
        (name,), index = job.names, job.payload
        if name == self._stop_at:
            raise KeyboardInterrupt
        if name == self._bad:
            return [FailedSample(name, "it is bad")]
        self.made.append(name)
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        label_map = rng.integers(0, 6, (8, 8), dtype=np.uint8)
        camera = make_camera(0.1 * index)[0].tolist()
        return [
            make_sample(
                name, image, label_map, CATMASK_HQ, camera, caption=name, attributes={"n": index}
            )
        ]


class DyingMaker(NoiseMaker):
    """Kills its process at the third sample."""

    def __call__(self, job: Job):
        if job.payload == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(job)


def _jobs(count: int = 5) -> list[Job]:
    return [Job((f"sub/{index}.png",), index) for index in range(count)]


def _prepare(path: Path, maker=None, *, settings=SETTINGS, jobs=None, **options):
    output = OutputSettings(path=path, label_set=CATMASK_HQ, **options)
    return prepare_dataset(jobs or _jobs(), maker or NoiseMaker(), output, settings)


@pytest.mark.parametrize("name", ["noise", "noise.zip"])
def test_samples_become_a_data_set_in_the_order_of_their_names(tmp_path, name):
    assert _prepare(tmp_path / name, jobs=_jobs()[::-1]) == []
    dataset = PortraitDataset(tmp_path / name)
    assert [dataset[i]["caption"] for i in range(5)] == [f"sub/{index}.png" for index in range(5)]
    _, index = open_dataset(tmp_path / name)
    assert [one["n"] for one in index.attributes] == list(range(5))
    assert index.preparation == {**SETTINGS, "failed": []}
    assert os.listdir(tmp_path) == [name]


def test_interrupted_preparation_goes_on_and_gives_the_same_bytes(tmp_path):
    _prepare(tmp_path / "whole.zip")
    interrupted = tmp_path / "parts.zip"
    with pytest.raises(KeyboardInterrupt):
        _prepare(interrupted, NoiseMaker(stop_at="sub/3.png"))
    assert not interrupted.exists()
    second = NoiseMaker()
    _prepare(interrupted, second)
    assert second.made == ["sub/3.png", "sub/4.png"]
    assert interrupted.read_bytes() == (tmp_path / "whole.zip").read_bytes()


def test_journal_that_was_cut_short_costs_one_sample(tmp_path):
    path = tmp_path / "noise.zip"
    with pytest.raises(KeyboardInterrupt):
        _prepare(path, NoiseMaker(stop_at="sub/3.png"))
    journal = tmp_path / ".noise.zip.preparing" / "journal.jsonl"
    journal.write_text(journal.read_text()[:-20])
    second = NoiseMaker()
    _prepare(path, second)
    assert second.made == ["sub/2.png", "sub/3.png", "sub/4.png"]
    assert len(PortraitDataset(path)) == 5


def test_leftovers_of_a_kill_after_the_work_are_removed(tmp_path):
    path = tmp_path / "noise"
    with pytest.raises(KeyboardInterrupt):
        _prepare(path, NoiseMaker(stop_at="sub/3.png"))
    # As a kill leaves it while finished samples are deleted: no journal, some of the files.
    staged = tmp_path / ".noise.preparing"
    (staged / "journal.jsonl").unlink()
    (tmp_path / "other").mkdir()
    _prepare(path)
    (staged / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="exists already"):
        _prepare(path)
    assert sorted(os.listdir(tmp_path)) == ["noise", "other"]


def test_sample_whose_files_are_gone_is_made_again(tmp_path):
    path = tmp_path / "noise"
    with pytest.raises(KeyboardInterrupt):
        _prepare(path, NoiseMaker(stop_at="sub/3.png"))
    (tmp_path / ".noise.preparing" / "images" / "sub" / "1.png").unlink()
    second = NoiseMaker()
    _prepare(path, second)
    assert second.made == ["sub/1.png", "sub/3.png", "sub/4.png"]


def test_failures_of_one_kind_are_counted_together(tmp_path):
    class Bad(NoiseMaker):
        def __call__(self, job):
            return [FailedSample(job.names[0], f"photo /photos/{job.names[0]} is damaged")]

    with pytest.raises(UserError, match=r"5 failed, most often \(5\): photo ... is damaged"):
        _prepare(tmp_path / "noise", Bad())


def test_other_options_do_not_mix_with_an_interrupted_preparation(tmp_path):
    path = tmp_path / "noise"
    with pytest.raises(KeyboardInterrupt):
        _prepare(path, NoiseMaker(stop_at="sub/3.png"))
    with pytest.raises(UserError, match="with other options lies in .*restart=true"):
        _prepare(path, settings={**SETTINGS, "resolution": 16})
    maker = NoiseMaker()
    _prepare(path, maker, settings={**SETTINGS, "resolution": 16}, restart=True)
    assert len(maker.made) == 5 and len(PortraitDataset(path)) == 5


def test_samples_whose_photo_changed_or_is_gone_are_not_taken_over(tmp_path):
    path = tmp_path / "noise"
    with pytest.raises(KeyboardInterrupt):
        _prepare(path, NoiseMaker(stop_at="sub/3.png"))
    jobs = _jobs()[1:]
    jobs[1] = dataclasses.replace(jobs[1], version="another photo")
    second = NoiseMaker()
    _prepare(path, second, jobs=jobs)
    assert second.made == ["sub/2.png", "sub/3.png", "sub/4.png"]
    assert open_dataset(path)[1].names == tuple(f"sub/{i}.png" for i in range(1, 5))


def test_worker_that_dies_ends_the_work_in_one_line(tmp_path):
    with pytest.raises(UserError, match="a worker process died"):
        _prepare(tmp_path / "noise", DyingMaker(), num_workers=1)


def test_failures_are_told_and_stored_with_the_rest(tmp_path, caplog):
    caplog.set_level("INFO", logger="training")
    failed = _prepare(tmp_path / "noise", NoiseMaker(bad="sub/1.png"))
    assert failed == [FailedSample("sub/1.png", "it is bad")]
    assert "left out sub/1.png: it is bad" in caplog.text
    stored = json.loads((tmp_path / "noise" / "dataset.json").read_text())
    assert stored["preparation"]["failed"] == [["sub/1.png", "it is bad"]]
    assert len(PortraitDataset(tmp_path / "noise")) == 4


def test_nothing_is_left_when_no_sample_can_be_made(tmp_path):
    with pytest.raises(UserError, match=r"no sample .* could be made; 1 failed.*it is bad"):
        _prepare(tmp_path / "noise", NoiseMaker(bad="sub/0.png"), jobs=_jobs(1))
    assert os.listdir(tmp_path) == []


def test_rare_angles_are_repeated(tmp_path):
    _prepare(
        tmp_path / "noise",
        jobs=[Job((f"{i}.png",), 0 if i else 6) for i in range(5)],
        max_repeats=3,
    )
    _, index = open_dataset(tmp_path / "noise")
    assert index.repeats.tolist() == [3, 1, 1, 1, 1]


def test_second_process_is_refused(tmp_path):
    class Nested(NoiseMaker):
        def __call__(self, job):
            with pytest.raises(UserError, match="another process is preparing"):
                _prepare(tmp_path / "noise")
            return super().__call__(job)

    _prepare(tmp_path / "noise", Nested(), jobs=_jobs(1))


_SLOW_PREPARATION = """
import time
from tests.training.data.preparation.test_staging import NoiseMaker, _jobs, _prepare
from pathlib import Path
class Slow(NoiseMaker):
    def __call__(self, job):
        time.sleep(0.02)
        return super().__call__(job)
_prepare(Path({path!r}), Slow(), jobs=_jobs(300))
"""


def test_killed_preparation_goes_on(tmp_path):
    path = tmp_path / "noise.zip"
    root = Path(__file__).parents[4]
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_PREPARATION.format(path=str(path))], cwd=root
    )
    journal = tmp_path / ".noise.zip.preparing" / "journal.jsonl"
    deadline = time.monotonic() + 60
    while not (journal.exists() and len(journal.read_text().splitlines()) > 20):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not path.exists()
    second = NoiseMaker()
    _prepare(path, second, jobs=_jobs(300))
    assert 0 < len(second.made) < 285 and len(PortraitDataset(path)) == 300
