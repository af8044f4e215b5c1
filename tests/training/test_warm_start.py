"""The losses of the supervised warm start."""

import torch

from mate3d.field import FieldSamples
from training.warm_start import class_weights, label_loss


def make_samples(class_sdf: list[list[float]]) -> FieldSamples:
    distances = torch.tensor([class_sdf])
    sdf = distances.amin(dim=-1, keepdim=True)
    return FieldSamples(torch.zeros(1, len(class_sdf), 3), sdf, distances)


def test_label_loss_is_small_where_the_nearest_class_is_right():
    truth = make_samples([[0.5, 0.0, 0.04], [0.5, 0.04, 0.0]])
    swapped = make_samples([[0.5, 0.04, 0.0], [0.5, 0.0, 0.04]])
    assert label_loss(truth, truth) < 1e-3
    assert label_loss(swapped, truth) > 5


def test_label_loss_ignores_points_far_from_the_surface():
    truth = make_samples([[0.5, 0.0, 0.04], [0.5, 0.3, 0.2]])
    wrong_far_away = make_samples([[0.5, 0.0, 0.04], [0.5, 0.2, 0.3]])
    torch.testing.assert_close(label_loss(wrong_far_away, truth), label_loss(truth, truth))
    assert label_loss(truth, make_samples([[0.5, 0.3, 0.2]] * 2)) == 0


def test_rare_classes_weigh_more():
    weights = class_weights(torch.tensor([0.9, 0.09, 0.01, 0.0]))
    assert (weights.diff() > 0).all() and torch.isfinite(weights).all()
