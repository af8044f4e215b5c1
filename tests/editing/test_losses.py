"""Loss terms of an edit."""

import math

import pytest
import torch

from editing import losses
from editing.fusion import FusedField
from editing.regions import everywhere
from mate3d.labels import one_hot_mask
from tests.editing.conftest import SCALE

EARS = 2


@pytest.fixture
def painted():
    painted = torch.zeros(1, 16, 16, dtype=torch.int64)
    painted[0, 4:12, 4:12] = 1
    painted[0, 2:4, 4:6] = EARS
    return painted


def test_cross_entropies_of_the_painted_mask_are_small_and_of_others_large(painted):
    weights, perfect = torch.ones(1, 16, 16), one_hot_mask(painted, 6) * 2 - 1
    assert losses.mask_cross_entropy(perfect, painted, weights) < 1e-3
    assert losses.mask_cross_entropy(-perfect, painted, weights) > 5
    even = losses.mask_cross_entropy(torch.zeros(1, 6, 16, 16), painted, weights)
    assert math.isclose(even.item(), math.log(6), rel_tol=1e-5)
    # A silhouette ignores the labels of the head.
    head = (painted != 0).float().unsqueeze(1)
    assert losses.silhouette_cross_entropy(head, painted, weights) < 1e-3
    assert losses.silhouette_cross_entropy(1 - head, painted, weights) > 5


def test_pixel_weights_have_mean_one_and_favour_zone_and_rare_classes(painted):
    zone = painted.unsqueeze(1) == EARS
    class_weights = losses.balanced_class_weights(painted, 6)
    assert class_weights[EARS] > class_weights[1] > class_weights[0]
    weights = losses.pixel_weights(
        painted, zone, zone_weight=1.0, outside_weight=0.2, class_weights=class_weights
    )
    assert math.isclose(weights.mean().item(), 1, rel_tol=1e-5)
    assert weights[0, 2, 4] > 5 * weights[0, 6, 6]


def test_other_views_may_show_the_sources_labels_or_painted_ones(painted):
    source = one_hot_mask(painted, 6) * 2 - 1

    def loss(label):
        changed = painted.clone()
        changed[0, 13:15, 3:9] = label
        return losses.other_labels_loss(one_hot_mask(changed, 6) * 2 - 1, source, [EARS]).item()

    assert loss(0) < 0.01 and loss(EARS) < 0.01
    # Skin in 12 pixels where the source shows background; allowed are two labels of score -5.
    expected = 12 * (10 - math.log(2)) / (painted != 0).sum().item()
    assert loss(1) == pytest.approx(expected, rel=0.01)


def test_preservation_counts_outside_pixels_only():
    source = torch.zeros(1, 3, 4, 4)
    image, inside = source.clone(), torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    image[..., 0, 0] = 1
    inside[..., 0, 0] = True
    assert losses.preservation_loss(image, source, inside) == 0
    assert losses.preservation_loss(image, source, ~inside) > 0


def test_feature_preservation_counts_each_plane_where_the_copy_is_hidden(tiny_generator, tiny_ws):
    points = torch.rand(1, 100, 3) * 0.5 - 0.25
    field, other = tiny_generator.make_field(tiny_ws), tiny_generator.make_field(tiny_ws + 0.5)
    hidden, visible = torch.zeros(1, 100, 1), torch.ones(1, 100, 1)

    def loss(edited, texture_share, shape_share):
        fused = FusedField(field, edited, everywhere)
        return losses.feature_preservation_loss(fused, points, (texture_share, shape_share))

    assert loss(field, hidden, hidden) == 0
    assert loss(other, visible, visible) == 0
    both, shape = loss(other, hidden, hidden), loss(other, visible, hidden)
    assert 0 < shape < both


@pytest.mark.parametrize("name", ["eikonal", "sdf_consistency"])
def test_a_geometry_term_is_the_same_alone_and_pulls(tiny_generator, tiny_ws, name):
    field = tiny_generator.make_field(tiny_ws.requires_grad_(True))
    points = torch.rand(1, 50, 3) * 0.5 - 0.25
    terms = losses.geometry_losses(field, points, SCALE)
    (gradient,) = torch.autograd.grad(terms[name], tiny_ws, retain_graph=True)
    assert gradient.any()
    alone = losses.geometry_losses(
        field,
        points,
        SCALE,
        with_eikonal=name == "eikonal",
        with_consistency=name == "sdf_consistency",
    )
    assert set(terms) == {"eikonal", "sdf_consistency"}
    assert alone == {name: terms[name]}


def test_iou_counts_one_class():
    first, second = torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 4).long()
    first[0, :2] = 2
    second[0, 1:3] = 2
    assert losses.mask_iou(first, second, 2) == pytest.approx(4 / 12)
    assert losses.mask_iou(first, first, 2) == 1
    assert losses.mask_iou(first, second, 5) is None


def test_psnr_ignores_the_region_and_sees_the_rest():
    source = torch.zeros(1, 3, 4, 4)
    region = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    region[..., :2, :] = True
    image = source.clone()
    image[..., :2, :] = 1
    assert losses.psnr_outside(image, source, region) == losses.MAX_PSNR_DB
    # One level of 255 everywhere outside.
    image[..., 2:, :] = 1 / 127.5
    assert losses.psnr_outside(image, source, region) == pytest.approx(48.13, abs=0.01)
