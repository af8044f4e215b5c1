"""What holds for portraits of every kind as fields."""

import pytest
import torch

from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ, LabelSet
from mate3d.procedural.cats.cat import cat_parameters_from_latent
from mate3d.procedural.cats.cat_field import CatField
from mate3d.procedural.cats.varied_cat import varied_cat_parameters_from_latent
from mate3d.procedural.people.field import PersonField
from mate3d.procedural.people.person import person_parameters_from_latent
from mate3d.procedural.portrait_field import BACKGROUND_SDF, PortraitField
from tests.mate3d.fields import latents

NUM = 12
CONSTANT = ("background", "ear_r", "neck_l")
KINDS = {
    "cat": (CatField, cat_parameters_from_latent, CATMASK_HQ),
    "varied cat": (CatField, varied_cat_parameters_from_latent, CATMASK_HQ),
    "person": (PersonField, person_parameters_from_latent, CELEBAMASK_HQ),
}


@pytest.fixture(scope="module", params=KINDS)
def portraits(request) -> tuple[PortraitField, LabelSet]:
    make_field, parameters_from_latent, label_set = KINDS[request.param]
    z = latents(NUM)
    return make_field(parameters_from_latent(z)), label_set


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(NUM, 3000, 3, generator=generator) * 0.8 - 0.4


def test_samples_are_colours_and_distances_with_their_minimum(portraits, points):
    field, label_set = portraits
    samples = field.sample(points)
    assert samples.features.shape == (NUM, 3000, 3)
    assert samples.class_sdf.shape == (NUM, 3000, label_set.num_classes)
    assert samples.class_sdf.isfinite().all()
    assert samples.features.min() >= 0 and samples.features.max() <= 1
    torch.testing.assert_close(samples.sdf, samples.class_sdf.amin(dim=-1, keepdim=True))
    torch.testing.assert_close(samples.sdf, field.sdf(points))
    torch.testing.assert_close(samples.class_sdf, field.class_sdf(points))
    for index, name in enumerate(label_set.class_names):
        if name in CONSTANT:
            assert (samples.class_sdf[..., index] == BACKGROUND_SDF).all(), name


def test_normals_agree_with_autograd(portraits, points):
    field, _ = portraits
    near = points.clone().requires_grad_()
    distance = field.sdf(near)
    (gradient,) = torch.autograd.grad(distance.sum(), near)
    assert gradient.isfinite().all()
    cosine = torch.cosine_similarity(gradient, field.normals(points), dim=-1)
    surface = (distance[..., 0] > 0) & (distance[..., 0] < 0.05)
    assert (cosine[surface] > 0.98).float().mean() > 0.97


def test_heads_lie_inside_their_bounding_ball_and_have_colours_beyond_it(portraits):
    field, _ = portraits
    direction = torch.randn(NUM, 8000, 3, generator=torch.Generator().manual_seed(4))
    on_ball = field.bound_radius * torch.nn.functional.normalize(direction, dim=-1)
    assert field.sdf(on_ball).min() > 0
    assert field.sample(1.5 * on_ball[:, :256]).features.isfinite().all()
