"""TensorBoard's own reader finds everything that a run shows, metrics among it."""

import json
from dataclasses import replace
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mate3d.labels import CATMASK_HQ
from training.augmentation import AugmentSettings
from training.evaluation import MetricSettings

ASSETS = Path(__file__).parents[2] / "assets"
GRIDS = {"image", "segmentation", "overlay", "depth", "normals", "sdf_slices"}
# Masks of noise are judged by nothing.
METRICS = {"fid_procedural", "kid_procedural", "eikonal_residual"}


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
    records = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert set(tags["scalars"]) == {name for r in records for name in r} - {"images_seen"}
    for group, names in {
        "Metrics": METRICS,
        "Augment": {"probability", "sign"},
        "Loss": {"G/loss", "D/loss", "D/loss_semantic", "G_eikonal/loss", "r1_penalty", "beta"},
        "Progress": {"kimg", "resolution", "blur_sigma", "pose_swap_probability", "lr_factor"},
        "Timing": {"images_per_sec", "sec_per_kimg", "eta_sec"},
        "Resources": {"peak_memory_gib"},
    }.items():
        assert {f"{group}/{name}" for name in names} <= set(tags["scalars"])
    real = {"real_image", "real_segmentation", "real_overlay"}
    assert set(tags["images"]) == {f"samples/{name}" for name in GRIDS | real}
    classes = {f"SDF_class/{name}" for name in CATMASK_HQ.class_names}
    assert {"SDF/box", "SDF/near_surface", "SDF/beta"} | classes <= set(tags["histograms"])
    assert len(reader.Histograms("SDF/near_surface")) == 2
    assert [event.step for event in reader.Scalars("Metrics/fid_procedural")] == [4, 8]
    plugin = reader.summary_metadata["_hparams_/experiment"].plugin_data
    assert plugin.plugin_name == "hparams"
