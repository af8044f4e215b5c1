"""Tests of the cats' distances and colours."""

import pytest
import torch

from mate3d.procedural.cats.cat import CatParameters, cat_parameters_from_latent
from mate3d.procedural.cats.cat_field import CatField

NUM_CATS = 6


@pytest.fixture(scope="module")
def parameters() -> CatParameters:
    return cat_parameters_from_latent(
        torch.randn(NUM_CATS, 64, generator=torch.Generator().manual_seed(0))
    )


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(NUM_CATS, 3000, 3, generator=generator) * 0.7 - 0.35


def class_gradient_norms(field: CatField, points: torch.Tensor) -> torch.Tensor:
    step = 1e-3
    differences = [
        field.class_sdf(points + step * axis) - field.class_sdf(points - step * axis)
        for axis in torch.eye(3)
    ]
    return torch.stack(differences, dim=-1).norm(dim=-1) / (2 * step)


def test_class_distances_have_gradient_near_one(parameters, points):
    field = CatField(parameters)
    norms = class_gradient_norms(field, points)[..., 1:]
    # Smooth seams flatten distances in creases, so a few points are allowed to be lower.
    assert torch.quantile(norms.flatten(), 0.05) > 0.85
    assert torch.quantile(norms.flatten(), 0.995) < 1.2
    near = norms[field.class_sdf(points)[..., 1:].abs() < 0.02]
    assert (near - 1).abs().mean() < 0.06


def test_head_stays_inside_the_demo_box(parameters):
    generator = torch.Generator().manual_seed(3)
    face = torch.rand(NUM_CATS, 4000, 3, generator=generator) * 0.7 - 0.35
    axis = torch.randint(0, 3, (NUM_CATS, 4000, 1), generator=generator)
    side = torch.randint(0, 2, (NUM_CATS, 4000, 1), generator=generator) * 0.7 - 0.35
    assert CatField(parameters).sdf(face.scatter(2, axis, side)).min() > 0


def test_mirrored_points_see_the_same_distances(parameters, points):
    field = CatField(parameters)
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(field.class_sdf(points), field.class_sdf(mirrored))
