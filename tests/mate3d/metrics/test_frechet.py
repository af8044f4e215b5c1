"""Distances of feature sets against their formulas, and distances' gradients of known fields."""

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.linalg
import torch

from mate3d.metrics.frechet import frechet_distance, kernel_distance
from mate3d.metrics.geometry import eikonal_residual
from tests.mate3d.fields import SphereField


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
