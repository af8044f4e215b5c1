"""What a run logs can be read back by TensorBoard and from stats.jsonl."""

import json
import logging
import resource
from contextlib import contextmanager

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.torch_utils.distributed_processes import run_processes, torchrun_environments
from training.run_folder.appended_file import AppendedFile
from training.run_folder.monitor import Monitor


def make_monitor(folder, images_seen=0):
    return Monitor(folder, images_seen=images_seen, total_images=100, with_progress_bar=False)


def read_stats(folder):
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def test_tick_writes_means_that_tensorboard_reads(tmp_path):
    monitor = make_monitor(tmp_path)
    monitor.record({"Loss/G/loss": torch.tensor([[1.0], [2.0]])})
    monitor.record({"Loss/G/loss": torch.tensor(6.0), "Progress/blur_sigma": 0.5})
    monitor.tick(20)
    monitor.add_picture("samples/image", torch.zeros(3, 8, 8), 20)
    monitor.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    (scalar,) = events.Scalars("Loss/G/loss")
    assert (scalar.value, scalar.step) == (3.0, 20)
    assert "samples/image" in events.Tags()["images"]
    (record,) = read_stats(tmp_path)
    assert record["images_seen"] == 20
    assert record["Loss/G/loss"] == 3.0
    assert record["Progress/kimg"] == 0.02


def test_means_start_anew_after_a_tick(tmp_path):
    monitor = make_monitor(tmp_path)
    monitor.record({"Loss/G/loss": 1.0})
    monitor.tick(10)
    monitor.record({"Loss/G/loss": 5.0})
    assert monitor.tick(20)["Loss/G/loss"] == 5.0


def test_tick_logs_one_status_line(tmp_path, caplog):
    monitor = make_monitor(tmp_path)
    monitor.record({"Loss/G/loss": 1.25})
    with caplog.at_level(logging.INFO, logger="training.run_folder.monitor"):
        monitor.tick(10)
    (line,) = caplog.messages
    assert "kimg" in line
    assert "s/kimg" in line
    assert "G 1.250" in line


def test_resuming_drops_records_written_after_the_resumed_state(tmp_path):
    monitor = make_monitor(tmp_path)
    for images_seen in (10, 20, 30):
        monitor.tick(images_seen)
    monitor.close()
    resumed = make_monitor(tmp_path, images_seen=20)
    resumed.tick(30)
    resumed.close()
    assert [record["images_seen"] for record in read_stats(tmp_path)] == [10, 20, 30]


def test_half_written_last_record_is_dropped_on_resume(tmp_path):
    (tmp_path / "stats.jsonl").write_text('{"images_seen": 10}\n{"images_se')
    make_monitor(tmp_path, images_seen=20).close()
    assert read_stats(tmp_path) == [{"images_seen": 10}]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values_keep_stats_readable(tmp_path, value):
    monitor = make_monitor(tmp_path)
    monitor.record({"Loss/G/loss": value})
    monitor.tick(10)
    assert len(read_stats(tmp_path)) == 1


def read_events(folder):
    return EventAccumulator(str(folder)).Reload()


def test_tensorboard_finds_every_kind_of_value(tmp_path):
    monitor = make_monitor(tmp_path)
    monitor.add_hparams({"train.batch_size": 4, "loss.r1_gamma": 0.5, "with": True, "x": [1, 2]})
    monitor.add_histogram("SDF/box", torch.linspace(-1, 1, 100), 10)
    monitor.add_values({"Metrics/fid_procedural": 12.5}, 10)
    monitor.add_grids({"image": torch.zeros(3, 4, 8)}, 10)
    monitor.close()
    events = read_events(tmp_path)
    tags = events.Tags()
    assert tags["images"] == ["samples/image"]
    assert tags["histograms"] == ["SDF/box"]
    assert tags["scalars"] == ["Metrics/fid_procedural"]
    assert set(events.summary_metadata) >= {"_hparams_/experiment", "_hparams_/session_start_info"}
    (histogram,) = events.Histograms("SDF/box")
    assert histogram.histogram_value.num == 100
    assert histogram.histogram_value.min == -1
    assert (tmp_path / "samples" / "000000010_image.png").exists()


def test_values_of_a_snapshot_stand_in_stats_too(tmp_path):
    monitor = make_monitor(tmp_path)
    monitor.tick(10)
    monitor.add_values({"Metrics/miou": 0.5}, 10)
    assert read_stats(tmp_path)[1] == {"images_seen": 10, "Metrics/miou": 0.5}


def test_histogram_leaves_out_what_is_not_finite(tmp_path):
    monitor = make_monitor(tmp_path)
    monitor.add_histogram("some", torch.tensor([1.0, float("nan"), float("inf"), 2.0]), 10)
    monitor.add_histogram("none", torch.tensor([float("nan")]), 10)
    monitor.add_histogram("one", torch.tensor([0.1]), 10)
    monitor.close()
    events = read_events(tmp_path)
    assert events.Tags()["histograms"] == ["some", "one"]
    assert events.Histograms("some")[0].histogram_value.num == 2


def test_time_left_follows_from_the_speed(tmp_path, monkeypatch):
    clock = iter([0.0, 0.0, 4.0, 8.0])
    monkeypatch.setattr("training.run_folder.monitor.time.monotonic", lambda: next(clock))
    monitor = make_monitor(tmp_path)
    stats = monitor.tick(20)
    assert stats["Timing/images_per_sec"] == 5
    assert stats["Timing/sec_per_kimg"] == 200
    assert stats["Timing/eta_sec"] == 16
    assert monitor.tick(100)["Timing/eta_sec"] == 0


@pytest.mark.parametrize("back_to, kept", [(10, [(10, 1.0)]), (0, [])])
def test_rollback_takes_back_what_came_after(tmp_path, back_to, kept):
    monitor = make_monitor(tmp_path)
    for images_seen in (10, 20, 30):
        monitor.record({"Loss/G/loss": 1.0})
        monitor.tick(images_seen)
    monitor.record({"Loss/G/loss": 1e9})
    monitor.rewind(back_to)
    monitor.record({"Loss/G/loss": 2.0})
    monitor.tick(20)
    monitor.close()
    expected = [*kept, (20, 2.0)]
    assert [record["images_seen"] for record in read_stats(tmp_path)] == [x for x, _ in expected]
    points = [(one.step, one.value) for one in read_events(tmp_path).Scalars("Loss/G/loss")]
    assert points == expected


def test_processes_that_are_not_main_write_nothing(tmp_path, caplog):
    monitor = Monitor(tmp_path, images_seen=0, total_images=100, is_main=False)
    monitor.record({"Loss/G/loss": 1.0})
    with caplog.at_level(logging.INFO, logger="training.run_folder.monitor"):
        assert monitor.tick(10)["Loss/G/loss"] == 1.0
        monitor.add_values({"Metrics/miou": 0.5}, 10)
        monitor.add_grids({"image": torch.zeros(3, 4, 8)}, 10)
        monitor.add_histogram("some", torch.ones(3), 10)
        monitor.add_hparams({"train.seed": 0})
        monitor.write_summary()
        monitor.rewind(0)
        monitor.close()
    assert list(tmp_path.iterdir()) == []
    assert caplog.messages == []


def test_damaged_line_in_the_middle_is_left_out_on_resume(tmp_path):
    (tmp_path / "stats.jsonl").write_text('{"images_seen": 10}\n{"ima\n{"images_seen": 20}\n')
    make_monitor(tmp_path, images_seen=20).close()
    assert [record["images_seen"] for record in read_stats(tmp_path)] == [10, 20]


@contextmanager
def files_no_longer_than(num_bytes):
    """Let writes fail beyond this length, in the middle of a record, as on a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_full_disk_is_one_warning_and_nothing_is_lost(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="training.run_folder.monitor")
    monitor = make_monitor(tmp_path)
    monitor.tick(10)
    caplog.clear()
    with files_no_longer_than(300):
        for images_seen in (20, 30):
            monitor.tick(images_seen)
            monitor.add_grids({"image": torch.rand(3, 64, 64)}, images_seen)
            monitor.write_summary()
    (warning,) = [one.message for one in caplog.records if one.levelno == logging.WARNING]
    assert "cannot write logs" in warning and str(tmp_path) in warning and "\n" not in warning
    assert [record["images_seen"] for record in read_stats(tmp_path)] == [10]
    assert list((tmp_path / "samples").iterdir()) == []
    monitor.tick(40)
    monitor.add_grids({"image": torch.rand(3, 64, 64)}, 40)
    monitor.write_summary()
    monitor.close()
    assert sum("written again" in message for message in caplog.messages) == 1
    assert [record["images_seen"] for record in read_stats(tmp_path)] == [10, 20, 30, 40]
    events = read_events(tmp_path)
    assert [one.step for one in events.Scalars("Progress/kimg")] == [10, 20, 30, 40]
    assert [one.step for one in events.Images("samples/image")] == [20, 30, 40]


def test_records_that_wait_take_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("training.run_folder.appended_file._MAX_WAITING_BYTES", 10)
    file = AppendedFile(tmp_path / "missing" / "file")
    for record in (b"aaaa", b"bbbb", b"cccc"):
        with pytest.raises(OSError):
            file.append(record)
    (tmp_path / "missing").mkdir()
    file.flush()
    assert (tmp_path / "missing" / "file").read_bytes() == b"bbbbcccc"


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from torch_utils.distributed import distributed, is_main
from training.run_folder.monitor import Monitor
with distributed("cpu") as world:
    monitor = Monitor(Path(sys.argv[1]), images_seen=0, total_images=100,
                      with_progress_bar=False, is_main=is_main())
    monitor.record({"Loss/G/loss": torch.full((1 + 2 * world.rank,), float(world.rank))})
    if is_main():
        monitor.record({"Progress/main_only": 3.0})
    stats = monitor.tick(20)
    assert stats["Loss/G/loss"] == 0.75, stats
    assert stats["Progress/main_only"] == 3.0, stats
    monitor.close()
"""


def test_means_are_those_over_all_processes(tmp_path):
    command = ["-c", TWO_PROCESSES, str(tmp_path)]
    for result in run_processes(command, torchrun_environments(2)):
        assert result.returncode == 0, result.stderr
    (record,) = read_stats(tmp_path)
    assert record["Loss/G/loss"] == 0.75
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
