"""Geometry terms on shapes whose answers are known."""

import pytest
import torch

from mate3d.rendering.field import eikonal_loss, sdf_consistency_loss
from training.losses import formulas


def test_undefined_gradients_count_as_zero_and_the_inside_of_parts_not_at_all():
    gradients = torch.tensor([[float("nan")] * 3, [1.0, 0.0, 0.0]])
    torch.testing.assert_close(eikonal_loss(gradients), torch.tensor(0.5))
    whole, parts = torch.full((1, 4, 1), -0.2), torch.full((1, 4, 3), -0.7)
    assert float(sdf_consistency_loss(whole, parts)) == 0.0


@pytest.mark.parametrize("loss", [sdf_consistency_loss, formulas.density_consistency_loss])
def test_detach_switch_decides_whether_the_whole_is_trained(loss):
    parts = torch.full((1, 4, 3), 0.3, requires_grad=True)
    whole = torch.full((1, 4, 1), 0.2, requires_grad=True)
    loss(whole, parts).backward()
    assert whole.grad is None
    assert parts.grad is not None
    loss(whole, parts, with_detached_whole=False).backward()
    assert whole.grad.abs().sum() > 0


def test_class_color_consistency_is_zero_for_masked_copies():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, 4, 4, generator=generator) * 2 - 1
    segmentation = torch.randn(2, 5, 4, 4, generator=generator)
    winner = segmentation.argmax(dim=1)
    masks = torch.stack([winner == index for index in range(5)], dim=1).unsqueeze(2)
    class_images = torch.where(masks, image.unsqueeze(1), torch.tensor(-1.0))
    assert float(formulas.class_color_consistency_loss(class_images, image, segmentation)) < 1e-12
    torch.testing.assert_close(
        formulas.color_consistency_loss(class_images, image), torch.tensor(0.0)
    )
