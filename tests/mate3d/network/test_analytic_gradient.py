"""Gradients of distances in closed form against autograd, which knows nothing of them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mate3d.network.density_decoder import DensityDecoder
from mate3d.network.sdf_decoder import SDFDecoder
from mate3d.rendering.field import (
    WrappedField,
    eikonal_loss,
    field_gradient,
    sample_with_gradient,
    sdf_and_gradient,
    sdf_gradient,
)
from mate3d.rendering.triplane import PLANE_AXES, TriPlaneField
from tests.mate3d.fields import SphereField

DECODERS = {
    "sdf": lambda: SDFDecoder(4, 6, 5, 3),
    "density": lambda: DensityDecoder(4, 6, 5, 3, with_joint_head=False),
    "joint_density": lambda: DensityDecoder(4, 6, 5, 3, density_level=0.3),
}


def make_field(decoder: str = "sdf", layout: str = "xy_xz_yz") -> TriPlaneField:
    """Two heads in double precision, with weights and planes that are parameters."""
    torch.manual_seed(0)
    module = DECODERS[decoder]().double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    planes = torch.randn(2, 2, 3, 4, 7, 7, dtype=torch.float64).requires_grad_()
    return TriPlaneField(module, planes[0], planes[1], 0.8, layout)


@pytest.fixture
def points() -> Tensor:
    """Points of which a fifth lies outside the planes."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 40, 3, generator=generator, dtype=torch.float64) - 0.5


def by_autograd(field: TriPlaneField, points: Tensor) -> tuple[Tensor, Tensor]:
    points = points.clone().requires_grad_()
    sdf = field.sdf(points)
    return sdf, sdf_gradient(sdf, points)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("layout", PLANE_AXES)
def test_closed_form_equals_autograd(decoder, layout, points):
    field = make_field(decoder, layout)
    expected_sdf, expected = by_autograd(field, points)
    sdf, gradient = sdf_and_gradient(field, points)
    torch.testing.assert_close(sdf, expected_sdf)
    torch.testing.assert_close(gradient, expected)
    samples, gradient = sample_with_gradient(field, points)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(samples.features, field.sample(points).features)
    assert (gradient[points.abs().amax(-1) > 0.4] == 0).any()


@pytest.mark.parametrize("decoder", DECODERS)
def test_eikonal_loss_trains_planes_and_weights_as_a_double_backward_does(decoder, points):
    field = make_field(decoder)
    mlp = field.decoder.sdf_head if decoder == "sdf" else field.decoder.density_head
    tensors = [field.shape_planes, *mlp.parameters()]
    expected, found = (
        torch.autograd.grad(eikonal_loss(way(field, points)[1]), tensors, materialize_grads=True)
        for way in (by_autograd, sdf_and_gradient)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert found[0].abs().sum() > 0 and found[1].abs().sum() > 0


def test_gradcheck_of_the_gradient(points):
    field = make_field()
    first, _, second = field.decoder.sdf_head

    def gradient_at(planes, *weights):
        for parameter, value in zip((first, second), weights, strict=True):
            parameter.__dict__["weight"] = value
        return sdf_and_gradient(replace(field, shape_planes=planes), points[:, :6])[1]

    weights = [first.weight, second.weight]
    for layer in (first, second):
        del layer.weight
    planes = field.shape_planes.detach().requires_grad_()
    assert torch.autograd.gradcheck(gradient_at, (planes, *weights))


def test_field_gradient_records_nothing_and_serves_any_field(points):
    field = make_field()
    found = field_gradient(field, points)
    assert not found.requires_grad
    torch.testing.assert_close(found, by_autograd(field, points)[1])
    torch.testing.assert_close(field_gradient(WrappedField(field), points), found)
    ball = field_gradient(SphereField(), points)
    torch.testing.assert_close(ball, torch.nn.functional.normalize(points, dim=-1))
