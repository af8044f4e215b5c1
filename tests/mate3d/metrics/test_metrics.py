"""Label scores and feature distances against their formulas, generators against truth."""

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.functional import jaccard_index

from mate3d.checkpoint import save_generator
from mate3d.metrics.frechet import frechet_distance, kernel_distance
from mate3d.metrics.geometry import eikonal_residual
from mate3d.metrics.procedural import measure_against_truth
from mate3d.metrics.segmentation import confusion_matrix, iou_of_counts
from scripts import evaluate
from tests.mate3d.fields import SphereField


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


@pytest.fixture
def features():
    random = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=random)
    real = torch.randn(300, 6, generator=random) @ mix
    return real, torch.randn(200, 6, generator=random) * 1.5 + 0.7


def test_frechet_distance_is_the_formula_of_gaussians(features):
    real, fake = (part.double().numpy() for part in features)
    root = scipy.linalg.sqrtm(np.cov(real.T) @ np.cov(fake.T)).real
    expected = ((real.mean(0) - fake.mean(0)) ** 2).sum()
    expected += np.trace(np.cov(real.T) + np.cov(fake.T) - 2 * root)
    assert frechet_distance(*features) == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_is_the_unbiased_estimate(features):
    # Subsets of all samples: each of the hundred is the whole estimate.
    x, y = features[0][:200].double(), features[1].double()

    def kernel(a, b):
        return (a @ b.T / 6 + 1) ** 3

    def off_diagonal_mean(matrix):
        return (matrix.sum() - matrix.trace()) / (200 * 199)

    expected = off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y))
    expected -= 2 * kernel(x, y).mean()
    assert kernel_distance(x, y) == pytest.approx(expected.item(), rel=1e-4)


def test_kernel_distance_repeats_and_leaves_global_random_numbers_alone():
    random = torch.Generator().manual_seed(1)
    real, fake = torch.randn(2, 60, 3, generator=random)
    before = torch.get_rng_state()
    first, again, other = (kernel_distance(real, fake, subset_size=20, seed=s) for s in (3, 3, 4))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


@dataclass
class SteepSphere(SphereField):
    """Its distance grows `slope` times too fast outside of a shell."""

    slope: float = 1.0
    shell: float = 0.0

    def sdf(self, points):
        distance = super().sdf(points)
        outside = (distance - self.shell).clamp(min=0)
        return distance + (self.slope - 1) * outside


def test_exact_distance_has_no_eikonal_residual():
    points = torch.rand(2, 512, 3) - 0.5
    torch.testing.assert_close(
        eikonal_residual(SphereField(), points), torch.zeros(2), atol=1e-9, rtol=0
    )


def test_residual_looks_at_the_surface_and_at_the_box():
    points = torch.rand(1, 4096, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    everywhere = eikonal_residual(SteepSphere(slope=3.0, shell=-1.0), points)
    torch.testing.assert_close(everywhere, torch.tensor([4.0]))
    far = points[:, :512].norm(dim=-1) > 0.4
    # Of the half near the surface none is wrong, of the other half those outside the shell.
    expected = 4.0 * far.float().mean() / 2
    near_is_right = eikonal_residual(SteepSphere(slope=3.0, shell=0.2), points)
    torch.testing.assert_close(near_is_right, expected[None])
