"""Label scores against torchmetrics; generators against procedural truth."""

import dataclasses
import json

import pytest
import torch
from torchmetrics.functional import jaccard_index

from mate3d.checkpoint import save_generator
from mate3d.metrics.procedural import measure_against_truth
from mate3d.metrics.segmentation import confusion_matrix, iou_of_counts
from scripts import evaluate


def test_iou_of_classes_equals_torchmetrics():
    label_map, reference = torch.randint(0, 5, (2, 3, 16, 16))
    expected = jaccard_index(label_map, reference, task="multiclass", num_classes=5, average="none")
    ious = iou_of_counts(confusion_matrix(label_map, reference, 5))
    torch.testing.assert_close(ious, expected)


def test_empty_generator_has_no_silhouette_and_errs_by_its_distance(tiny_generator):
    # Push the surface far away, so that every pixel is background.
    tiny_generator.decoder.sdf_head[2].bias.fill_(10.0)
    tiny_generator.decoder.sdf_head[2].weight.zero_()
    values = measure_against_truth(widen_latent(tiny_generator), num_heads=2)
    assert values["opacity_iou"] == 0
    assert values["sdf_error"] == pytest.approx(10, abs=0.05)
    assert values["mean_iou"] == pytest.approx(
        sum(value for name, value in values.items() if name.startswith("iou_")) / 6
    )


def widen_latent(generator):
    """Return the generator with a latent as wide as the procedural attributes are many."""
    wide = type(generator)(dataclasses.replace(generator.config, z_dim=32))
    state = generator.state_dict()
    del state["mapping.layers.0.weight"]
    wide.load_state_dict(state, strict=False)
    return wide.eval().requires_grad_(False)


def test_script_writes_the_numbers(tiny_generator, tmp_path):
    save_generator(tmp_path / "model", widen_latent(tiny_generator))
    words = ["debug=tiny", f"generator={tmp_path / 'model'}", f"output={tmp_path / 'metrics'}"]
    evaluate.main(words)
    values = json.loads((tmp_path / "metrics" / "metrics.json").read_text())
    assert 0 <= values["mean_iou"] <= 1 and values["psnr_db"] > 0
