"""Geometry terms on shapes whose answers are known."""

import math

import pytest
import torch

from mate3d.rendering.sdf_losses import eikonal_loss, sdf_consistency_loss
from training.losses import geometry


@pytest.fixture
def points() -> torch.Tensor:
    return torch.rand(2, 500, 3, generator=torch.Generator().manual_seed(0)) - 0.5


def test_eikonal_loss_of_a_sphere_is_zero(points):
    points.requires_grad_()
    sdf = points.norm(dim=-1) - 0.25
    (gradients,) = torch.autograd.grad(sdf.sum(), points)
    assert float(eikonal_loss(gradients)) < 1e-12


def test_eikonal_loss_of_a_doubled_distance_is_one(points):
    points.requires_grad_()
    (gradients,) = torch.autograd.grad(2 * points.norm(dim=-1).sum(), points)
    torch.testing.assert_close(eikonal_loss(gradients), torch.tensor(1.0))


def test_eikonal_loss_counts_undefined_gradients_as_zero():
    gradients = torch.tensor([[float("nan")] * 3, [1.0, 0.0, 0.0]])
    torch.testing.assert_close(eikonal_loss(gradients), torch.tensor(0.5))


def test_minimal_surface_loss_charges_only_near_the_surface():
    on_surface, off_surface = torch.zeros(4, 1), torch.full((4, 1), 0.3)
    assert float(geometry.minimal_surface_loss(on_surface)) == 1.0
    assert float(geometry.minimal_surface_loss(off_surface)) < 1e-12
    shell = torch.full((4, 1), -0.01)
    assert float(geometry.minimal_surface_loss(shell)) == pytest.approx(math.exp(-1))


def test_sdf_consistency_is_zero_for_a_union_of_parts(points):
    parts = torch.stack(
        [(points - 0.1).norm(dim=-1) - 0.2, (points + 0.1).norm(dim=-1) - 0.3], dim=-1
    )
    assert float(sdf_consistency_loss(parts.amin(-1, keepdim=True), parts)) == 0.0


def test_sdf_consistency_ignores_the_inside():
    whole, parts = torch.full((1, 4, 1), -0.2), torch.full((1, 4, 3), -0.7)
    assert float(sdf_consistency_loss(whole, parts)) == 0.0


@pytest.mark.parametrize("loss", [sdf_consistency_loss, geometry.density_consistency_loss])
def test_detach_switch_decides_whether_the_whole_is_trained(loss):
    parts = torch.full((1, 4, 3), 0.3, requires_grad=True)
    whole = torch.full((1, 4, 1), 0.2, requires_grad=True)
    loss(whole, parts).backward()
    assert whole.grad is None
    assert parts.grad is not None
    loss(whole, parts, with_detached_whole=False).backward()
    assert whole.grad.abs().sum() > 0


def test_density_consistency_compares_with_the_sum():
    density, class_density = torch.full((1, 4, 1), 5.0), torch.ones(1, 4, 3)
    assert float(geometry.density_consistency_loss(density, class_density)) == 4.0


def test_density_smoothness_is_the_mean_difference():
    first, second = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[3.0], [1.0]]])
    assert float(geometry.density_smoothness_loss(first, second)) == 1.5


def test_sphere_initialization_loss_adds_whole_and_parts(points):
    sdf = points.norm(dim=-1, keepdim=True) - 0.2
    loss = geometry.sphere_initialization_loss(
        sdf + 1, sdf.expand(-1, -1, 3) - 1, points, radius=0.2
    )
    assert float(loss) == pytest.approx(4.0)


def test_class_color_consistency_is_zero_for_masked_copies():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, 4, 4, generator=generator) * 2 - 1
    segmentation = torch.randn(2, 5, 4, 4, generator=generator)
    winner = segmentation.argmax(dim=1)
    masks = torch.stack([winner == index for index in range(5)], dim=1).unsqueeze(2)
    class_images = torch.where(masks, image.unsqueeze(1), torch.tensor(-1.0))
    loss = geometry.class_color_consistency_loss(class_images, image, segmentation, with_skin=True)
    assert float(loss) < 1e-12
    torch.testing.assert_close(
        geometry.color_consistency_loss(class_images, image), torch.tensor(0.0)
    )


def test_class_color_consistency_leaves_out_skin_as_released():
    image, segmentation = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    class_images = torch.full((1, 3, 3, 2, 2), -1.0)
    class_images[:, 0] = image
    class_images[:, 1] = 7.0
    assert float(geometry.class_color_consistency_loss(class_images, image, segmentation)) == 0.0
