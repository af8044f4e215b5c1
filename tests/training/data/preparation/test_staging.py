"""Preparing a dataset: what is done is kept, what fails is told, nothing is half-written."""

import dataclasses
import errno
import json
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mate3d.cameras import make_camera
from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ
from tests.processes import killed_at_line
from training.data.dataset import PortraitDataset
from training.data.format import DatasetWriter, containers, open_dataset, writer
from training.data.preparation import staging
from training.data.preparation.prepare import prepare_dataset
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
    writer = DatasetWriter(path, CATMASK_HQ)
    return prepare_dataset(jobs or _jobs(), maker or NoiseMaker(), writer, settings, **options)


@pytest.fixture
def interrupted(tmp_path) -> Path:
    """Place of a preparation that was stopped at its fourth sample."""
    with pytest.raises(KeyboardInterrupt):
        _prepare(tmp_path / "noise.zip", NoiseMaker(stop_at="sub/3.png"))
    assert os.listdir(tmp_path) == [".noise.zip.preparing"]
    return tmp_path / "noise.zip"


@pytest.mark.parametrize("name", ["noise", "noise.zip"])
def test_samples_become_a_data_set_in_the_order_of_their_names(tmp_path, name):
    assert _prepare(tmp_path / name, jobs=_jobs()[::-1]) == []
    dataset = PortraitDataset(tmp_path / name)
    assert [dataset[i]["caption"] for i in range(5)] == [f"sub/{index}.png" for index in range(5)]
    _, index = open_dataset(tmp_path / name)
    assert [one["n"] for one in index.attributes] == list(range(5))
    assert index.preparation == {**SETTINGS, "failed": []}
    assert os.listdir(tmp_path) == [name]


def _cut_journal(staged):
    journal = staged / "journal.jsonl"
    journal.write_text(journal.read_text()[:-20])


DAMAGES = {
    "none": (lambda staged: None, [3, 4]),
    "journal cut short": (_cut_journal, [2, 3, 4]),
    "files gone": (lambda staged: (staged / "images/sub/1.png").unlink(), [1, 3, 4]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_interrupted_preparation_goes_on_and_gives_the_same_bytes(interrupted, tmp_path, name):
    damage, missing = DAMAGES[name]
    damage(tmp_path / ".noise.zip.preparing")
    # Interrupted once more: what is appended to a journal counts, too.
    second, third = NoiseMaker(stop_at="sub/4.png"), NoiseMaker()
    with pytest.raises(KeyboardInterrupt):
        _prepare(interrupted, second)
    _prepare(interrupted, third)
    assert second.made + third.made == [f"sub/{index}.png" for index in missing]
    _prepare(tmp_path / "whole.zip")
    assert interrupted.read_bytes() == (tmp_path / "whole.zip").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["noise.zip", "whole.zip"]


def test_failures_of_all_samples_name_the_first_and_leave_nothing(tmp_path):
    class Bad(NoiseMaker):
        def __call__(self, job):
            return [FailedSample(job.names[0], f"photo /photos/{job.names[0]} is damaged")]

    with pytest.raises(UserError, match="all 5 failed, first sub/0.png: photo .* is damaged"):
        _prepare(tmp_path / "noise", Bad())
    assert os.listdir(tmp_path) == []


def test_other_options_do_not_mix_with_an_interrupted_preparation(interrupted):
    with pytest.raises(UserError, match="with other options.*restart=true"):
        _prepare(interrupted, settings={**SETTINGS, "resolution": 16})
    maker = NoiseMaker()
    _prepare(interrupted, maker, settings={**SETTINGS, "resolution": 16}, restart=True)
    assert len(maker.made) == 5 and len(PortraitDataset(interrupted)) == 5


def test_samples_whose_photo_changed_or_is_gone_are_not_taken_over(interrupted):
    jobs = _jobs()[1:]
    jobs[1] = dataclasses.replace(jobs[1], version="another photo")
    second = NoiseMaker()
    _prepare(interrupted, second, jobs=jobs)
    assert second.made == ["sub/2.png", "sub/3.png", "sub/4.png"]
    assert open_dataset(interrupted)[1].names == tuple(f"sub/{i}.png" for i in range(1, 5))


def test_full_disk_and_unsafe_names_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="unsafe"):
        _prepare(tmp_path / "noise", jobs=[Job(("../e.png",), 0)])

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="cannot write .*noise.preparing: No space left"):
        _prepare(tmp_path / "noise")
    assert os.listdir(tmp_path) == []


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


def test_rare_angles_are_repeated(tmp_path):
    jobs = [Job((f"{i}.png",), 0 if i else 6) for i in range(5)]
    _prepare(tmp_path / "noise", jobs=jobs, max_repeats=3)
    _, index = open_dataset(tmp_path / "noise")
    assert index.repeats.tolist() == [3, 1, 1, 1, 1]


def test_second_process_is_refused(tmp_path):
    class Nested(NoiseMaker):
        def __call__(self, job):
            with pytest.raises(UserError, match="another process"):
                _prepare(tmp_path / "noise")
            return super().__call__(job)

    _prepare(tmp_path / "noise", Nested(), jobs=_jobs(1))


def test_killed_preparation_goes_on(tmp_path):
    _prepare(tmp_path / "whole.zip", jobs=_jobs(12))
    counts = []
    for moment in (40, 150, 300, 500, 900):
        path, second = tmp_path / f"{moment}.zip", NoiseMaker()
        prepare = partial(_prepare, path, jobs=_jobs(12))
        assert killed_at_line(prepare, moment, staging, writer, containers)
        assert not path.exists()
        prepare(second)
        assert path.read_bytes() == (tmp_path / "whole.zip").read_bytes()
        counts.append(len(second.made))
    # The later, the less is left to do; at last only the dataset is written again.
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[2] > counts[-1] == 0
    assert not list(tmp_path.glob(".*"))
