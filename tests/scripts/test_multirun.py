"""Jobs of several values: their folders, their words, preemption, and what a user gets wrong."""

import signal
import sys
import time
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from scripts import prepare_data
from scripts._multirun import _job_words
from scripts._words import hydra_words

submitit = pytest.importorskip("submitit")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seeed=1,2"], "unknown option 'seeed'"),
        (["seed=1,many"], "seed=many; use an integer"),
        (["debug=tiny,small"], "unknown choice debug=small; use one of: tiny"),
        (["hydra/launcher=pbs"], "unknown choice hydra/launcher=pbs; use one of: basic, local"),
        (["hydra/launcher=local", "hydra.launcher.nodez=2"], "Key 'nodez' not in"),
        (["hydra/launcher=slurm", "seed=1,2"], 'hydra/launcher=slurm: Could not detect "srun"'),
    ],
)
def test_mistakes_are_one_line_before_anything_starts(words, message, fail, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    line = fail(prepare_data.main, "--multirun", f"output={tmp_path / 'jobs'}", *words)
    assert message in line
    assert not list(tmp_path.glob("jobs/seed*"))


def test_jobs_of_this_process_get_folders_named_after_what_differs(tmp_path, capsys):
    words = ["debug=tiny", "num_images=2", f"paths.outputs={tmp_path}"]
    prepare_data.main(["--multirun", *words, "seed=3,4", f"output={tmp_path / 'jobs'}"])
    assert f"2 jobs in {tmp_path / 'jobs'}" in capsys.readouterr().out
    for seed in (3, 4):
        assert (tmp_path / f"jobs/seed={seed}/dataset.json").is_file()


@pytest.mark.slow
def test_job_of_submitit_runs_and_its_failure_is_one_line(tmp_path, fail):
    words = ["hydra/launcher=local", "debug=tiny", "num_images=2", f"paths.outputs={tmp_path}"]
    taken = tmp_path / "jobs/seed=4"
    taken.mkdir(parents=True)
    (taken / "dataset.json").touch()
    line = fail(prepare_data.main, "--multirun", *words, "seed=3,4", f"output={tmp_path / 'jobs'}")
    assert line.startswith(f"error: hydra/launcher=local: error: output {taken} ")
    assert (tmp_path / "jobs/seed=3/dataset.json").is_file()


def test_free_text_survives_the_way_through_hydra():
    for text in ("a cat's ears, black", "C:\\new\\", "back\\'slash", "é [x]"):
        words = hydra_words("edit", [f"prompt={text}"], with_sweeps=True)
        (override,) = OverridesParser.create().parse_overrides(words)
        assert override.value() == text


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("generator=2024_01,b c", ["2024_01", "b c"]),
        ("prompt='a, b',c", ["a, b", "c"]),
        ("edit_classes=[ears,7],[eyes]", [["ears", "7"], ["eyes"]]),
        ("source=range(1,3)", ["1", "2"]),
        ("yaw_degrees=-1,0.5", [-1, 0.5]),
    ],
)
def test_commas_make_one_job_each_and_text_stays_text(word, values):
    parser = OverridesParser.create()
    (override,) = parser.parse_overrides(hydra_words("edit", [word], with_sweeps=True))
    jobs = [f"{override.get_key_element()}={item}" for item in override.sweep_string_iterator()]
    # A job reads its words again, by itself.
    again = parser.parse_overrides(hydra_words("edit", jobs))
    assert [each.value() for each in again] == values


def test_job_resumes_where_it_stopped():
    assert _job_words("train", Path("a b")) == ["output=a b", "resume=auto"]
    assert _job_words("prepare_data", Path("a b")) == ["output=a b"]


class CountingJob:
    """Counts as training does: stops on SIGTERM on all processes together, and goes on later."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self) -> int:
        sys.path.insert(0, str(ROOT))
        from scripts._multirun import queue_again
        from torch_utils.distributed import any_process, broadcast_object, distributed, is_main
        from torch_utils.interruption import stop_on_signal

        state = self.folder / "state.txt"
        with distributed("cpu"), stop_on_signal() as should_stop:
            count = broadcast_object(int(state.read_text()) if state.exists() else 0)
            (self.folder / f"started_at_{count}").touch()
            limit = 10**9 if count == 0 else count + 3
            while count < limit and not any_process(should_stop()):
                count += 1
                time.sleep(0.01)
            if is_main():
                state.write_text(str(count))
        queue_again()
        return count

    def checkpoint(self):
        return submitit.helpers.DelayedSubmission(self)


@pytest.mark.slow
def test_preempted_job_of_two_processes_saves_and_goes_on(tmp_path):
    executor = submitit.LocalExecutor(tmp_path / "logs", max_num_timeout=2)
    executor.update_parameters(tasks_per_node=2, timeout_min=5, signal_delay_s=1)
    job = executor.submit(CountingJob(tmp_path))
    end = time.monotonic() + 120
    while not (tmp_path / "started_at_0").exists() and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(1)
    # What submitit's controller does when time is over, at each process.
    for task in _tasks(job):
        task.send_signal(signal.SIGUSR2)
    counts = job.results()
    saved = [int(path.name.split("_")[-1]) for path in tmp_path.glob("started_at_*")]
    assert len(saved) == 2 and max(saved) > 0
    assert counts[0] == max(saved) + 3


def _tasks(job) -> list:
    psutil = pytest.importorskip("psutil")
    return psutil.Process(int(job.job_id)).children()
