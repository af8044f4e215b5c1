"""Softer surfaces: the same head, with gradients that reach farther."""

import torch

from editing.views import SoftField
from mate3d.rendering.renderer import RenderingConfig, render_field
from tests.mate3d.fields import SphereField


def test_a_ray_beside_a_soft_surface_pulls_it_and_one_beside_a_sharp_surface_does_not():
    origin = torch.tensor([[[0.23, 0.0, 2.7]]])
    direction = torch.tensor([[[0.0, 0.0, -1.0]]])

    def pull(beta: float) -> float:
        sphere = SphereField(radius=torch.tensor(0.2, requires_grad=True))
        view = render_field(SoftField(sphere, beta, 1 / beta), origin, direction, RenderingConfig())
        (gradient,) = torch.autograd.grad(view.opacity.sum(), sphere.radius)
        return gradient.item()

    assert pull(0.02) > 1
    assert abs(pull(0.0004)) < 1e-6
