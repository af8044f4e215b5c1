"""What a run logs can be read back by TensorBoard and from stats.jsonl."""

import json
import logging

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.monitor import Monitor


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
    with caplog.at_level(logging.INFO, logger="training.monitor"):
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
