"""What a run logs can be read back by TensorBoard and from stats.jsonl."""

import json
import logging
import re
import resource
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mate3d.labels import CATMASK_HQ
from tests.processes import run_launched
from torch_utils.distributed import distributed, is_main
from training.augmentation import AugmentSettings
from training.evaluation import MetricSettings
from training.run_folder.monitor import Monitor

ASSETS = Path(__file__).parents[3] / "mate3d/assets"


def make_monitor(folder, images_seen=0, **more):
    sizes = {"images_seen": images_seen, "total_images": 100}
    return Monitor(folder, **sizes, with_progress_bar=False, **more)


def read_stats(folder):
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def images_in_stats(folder):
    return [record["images_seen"] for record in read_stats(folder)]


def read_events(folder):
    return EventAccumulator(str(folder)).Reload()


@pytest.fixture
def messages(caplog):
    """Levels and texts of what the monitor tells a user."""
    caplog.set_level(logging.INFO, logger="training.run_folder.monitor")
    return lambda: [(one.levelno, one.getMessage()) for one in caplog.records]


def test_tick_writes_means_and_one_status_line(tmp_path, messages):
    monitor = make_monitor(tmp_path)
    monitor.record({"Loss/G/loss": torch.tensor([[1.0], [2.0]])})
    monitor.record({"Loss/G/loss": torch.tensor(6.0), "Progress/blur_sigma": 0.5})
    monitor.tick(20)
    monitor.record({"Loss/G/loss": 5.0, "Loss/D/loss": float("nan"), "Loss/x": float("inf")})
    assert monitor.tick(40)["Loss/G/loss"] == 5.0
    monitor.add_values({"Metrics/miou": 0.5}, 40)
    monitor.close()
    points = [(one.step, one.value) for one in read_events(tmp_path).Scalars("Loss/G/loss")]
    assert points == [(20, 3.0), (40, 5.0)]
    first, _, third = read_stats(tmp_path)
    expected = {"images_seen": 20, "Loss/G/loss": 3.0, "Progress/kimg": 0.02}
    assert first.items() >= expected.items()
    assert third == {"images_seen": 40, "Metrics/miou": 0.5}
    (_, line), _ = messages()
    assert line.startswith("kimg 0.02  ") and "img/s" in line and line.endswith("left")
    assert len(re.findall(r"\d[\d.]*", line)) == 3


def test_unknown_memory_is_left_out(tmp_path, messages, monkeypatch):
    monkeypatch.setattr("training.run_folder.monitor.peak_memory_bytes", lambda: None)
    monitor = make_monitor(tmp_path)
    monitor.tick(20)
    monitor.close()
    assert "Resources/peak_memory_gib" not in read_stats(tmp_path)[0]
    assert " GiB" not in messages()[0][1]


@pytest.mark.parametrize("is_resumed", [True, False], ids=["resume", "rollback"])
@pytest.mark.parametrize("back_to, kept", [(10, [(10, 1.0)]), (0, [])])
def test_no_step_is_doubled_or_missing_after_going_back(tmp_path, is_resumed, back_to, kept):
    monitor = make_monitor(tmp_path)
    for images_seen in (10, 20, 30):
        monitor.record({"Loss/G/loss": 1.0})
        monitor.tick(images_seen)
    monitor.record({"Loss/G/loss": 1e9})
    if is_resumed:
        monitor.close()
        with (tmp_path / "stats.jsonl").open("a") as file:
            file.write('{"ima\n{"images_seen": 40}\n{"images_se')
        monitor = make_monitor(tmp_path, images_seen=back_to)
    else:
        monitor.rewind(back_to)
    monitor.record({"Loss/G/loss": 2.0})
    monitor.tick(20)
    monitor.close()
    expected = [*kept, (20, 2.0)]
    assert images_in_stats(tmp_path) == [images for images, _ in expected]
    points = [(one.step, one.value) for one in read_events(tmp_path).Scalars("Loss/G/loss")]
    assert points == expected


def test_tensorboard_finds_all_tags(make_trainer, tiny_settings, tmp_path):
    metrics = MetricSettings(
        procedural_network=str(ASSETS / "procedural_features"),
        features="procedural",
        num_samples=4,
        batch_size=2,
        eikonal_heads=1,
    )
    augment = AugmentSettings(mode="fixed", probability=0.2)
    settings = replace(tiny_settings, metrics=metrics, augment=augment)
    trainer, _ = make_trainer(tmp_path, settings, options={"train.batch_size": 2})
    assert trainer.run()
    every = {"images": 0, "scalars": 0, "histograms": 0}
    reader = EventAccumulator(str(tmp_path), size_guidance=every).Reload()
    tags = reader.Tags()
    in_stats = {name for record in read_stats(tmp_path) for name in record}
    assert set(tags["scalars"]) == in_stats - {"images_seen"}
    for group, names in {
        # Masks of noise are judged by nothing.
        "Metrics": {"fid_procedural", "kid_procedural", "eikonal_residual"},
        "Augment": {"probability", "sign"},
        "Loss": {"G/loss", "D/loss", "D/loss_semantic", "G_eikonal/loss", "r1_penalty", "beta"},
        "Progress": {"kimg", "resolution", "blur_sigma", "pose_swap_probability", "lr_factor"},
        "Timing": {"images_per_sec", "sec_per_kimg", "eta_sec"},
        "Resources": {"peak_memory_gib"},
    }.items():
        assert {f"{group}/{name}" for name in names} <= set(tags["scalars"])
    grids = {"image", "segmentation", "overlay", "depth", "normals", "sdf_slices"}
    grids |= {"real_image", "real_segmentation", "real_overlay"}
    assert set(tags["images"]) == {f"samples/{name}" for name in grids}
    classes = {f"SDF_class/{name}" for name in CATMASK_HQ.class_names}
    assert {"SDF/box", "SDF/near_surface", "SDF/beta"} | classes <= set(tags["histograms"])
    assert len(reader.Histograms("SDF/near_surface")) == 2
    assert [event.step for event in reader.Scalars("Metrics/fid_procedural")] == [4, 8]
    plugin = reader.summary_metadata["_hparams_/experiment"].plugin_data
    assert plugin.plugin_name == "hparams"


def test_histograms_leave_out_what_is_no_number(tmp_path):
    monitor = make_monitor(tmp_path)
    some = torch.tensor([[1.0, float("nan")], [float("inf"), 2.0]])
    monitor.add_histograms({"some": some, "none": torch.tensor([float("nan")])}, 10)
    monitor.close()
    events = read_events(tmp_path)
    assert events.Tags()["histograms"] == ["some"]
    (histogram,) = (event.histogram_value for event in events.Histograms("some"))
    assert (histogram.num, histogram.min) == (2, 1)


def test_time_left_follows_from_the_speed(tmp_path, monkeypatch):
    clock = iter([0.0, 0.0, 4.0, 8.0])
    monkeypatch.setattr("training.run_folder.monitor.time.monotonic", lambda: next(clock))
    monitor = make_monitor(tmp_path)
    stats = monitor.tick(20)
    assert stats["Timing/images_per_sec"] == 5
    assert stats["Timing/sec_per_kimg"] == 200
    assert stats["Timing/eta_sec"] == 16
    assert monitor.tick(100)["Timing/eta_sec"] == 0


def test_processes_that_are_not_main_write_nothing(tmp_path, messages):
    monitor = make_monitor(tmp_path, is_main=False)
    monitor.record({"Loss/G/loss": 1.0})
    assert monitor.tick(10)["Loss/G/loss"] == 1.0
    monitor.add_values({"Metrics/miou": 0.5}, 10)
    monitor.add_grids({"image": torch.zeros(3, 4, 8)}, 10)
    monitor.add_histograms({"some": torch.ones(3)}, 10)
    monitor.add_hparams({"train.seed": 0})
    monitor.write_summary()
    monitor.rewind(0)
    monitor.close()
    assert list(tmp_path.iterdir()) == [] and messages() == []


@contextmanager
def files_no_longer_than(num_bytes):
    """Let writes fail beyond this length, in the middle of a record, as on a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_full_disk_is_one_warning_and_nothing_is_lost(tmp_path, messages):
    monitor = make_monitor(tmp_path)
    monitor.tick(10)
    with files_no_longer_than(300):
        for images_seen in (20, 30):
            monitor.tick(images_seen)
            monitor.add_grids({"image": torch.rand(3, 64, 64)}, images_seen)
            monitor.write_summary()
    (warning,) = [text for level, text in messages() if level == logging.WARNING]
    assert "cannot write logs" in warning and str(tmp_path) in warning and "\n" not in warning
    assert images_in_stats(tmp_path) == [10]
    assert list((tmp_path / "samples").iterdir()) == []
    monitor.tick(40)
    monitor.add_grids({"image": torch.rand(3, 64, 64)}, 40)
    monitor.write_summary()
    monitor.close()
    assert sum("writing logs to" in text for _, text in messages()) == 1
    assert images_in_stats(tmp_path) == [10, 20, 30, 40]
    events = read_events(tmp_path)
    assert [one.step for one in events.Scalars("Progress/kimg")] == [10, 20, 30, 40]
    assert [one.step for one in events.Images("samples/image")] == [20, 30, 40]


def test_means_are_those_over_all_processes(tmp_path):
    def tick():
        with distributed("cpu") as world:
            monitor = make_monitor(tmp_path, is_main=is_main())
            monitor.record({"Loss/G/loss": torch.full((1 + 2 * world.rank,), float(world.rank))})
            if is_main():
                monitor.record({"Progress/main_only": 3.0})
            stats = monitor.tick(20)
            assert (stats["Loss/G/loss"], stats["Progress/main_only"]) == (0.75, 3.0)
            monitor.close()

    run_launched(tick)
    (record,) = read_stats(tmp_path)
    assert record["Loss/G/loss"] == 0.75
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
