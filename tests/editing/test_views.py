"""Softer surfaces and normals as colours."""

import torch

from editing.views import SoftField, picture_normals
from mate3d.cameras import make_camera
from mate3d.generator import RenderOutput
from mate3d.rendering.rays import sample_rays
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


def sphere_normals(yaw: float, raw_side: int, radius: float = 0.2) -> torch.Tensor:
    """Return the normals of a sphere's view as an objective gets them, with a 96 px image."""
    camera, field = make_camera(yaw), SphereField(radius, beta=0.004)
    raw = render_field(field, *sample_rays(camera, raw_side), RenderingConfig(), with_normals=True)
    image = torch.zeros(1, 3, 96, 96)
    own = {"depth": raw.depth, "opacity": raw.opacity, "normals": raw.normals}
    view = RenderOutput(
        image=image, image_raw=image, segmentation=None, segmentation_raw=None, **own
    )
    return picture_normals(view, camera)


def test_normals_are_smooth_unit_vectors_in_the_axes_of_the_picture():
    normals, sharp = sphere_normals(0.0, 24), sphere_normals(0.0, 96)
    assert normals.shape == (1, 3, 96, 96)
    lengths = sharp.norm(dim=1, keepdim=True)
    inside = -torch.nn.functional.max_pool2d(-lengths, 9, stride=1, padding=4) > 0.99
    # Not as many flat squares as there are raw pixels.
    assert (normals - sharp).abs()[inside.expand_as(normals)].max() < 0.05
    assert (normals.norm(dim=1, keepdim=True)[inside] - 1).abs().max() < 0.01
    assert normals[0, :, 48, 75][0] > 0.5 and normals[0, :, 21, 48][1] > 0.5
    assert normals[0, 2, 48, 48] > 0.99 and not normals[..., 0, 0].any()
    # A sphere looks the same from every side.
    torch.testing.assert_close(sphere_normals(0.8, 24), normals, rtol=0, atol=0.02)


def test_gradients_of_normals_reach_the_surface_and_stay_finite():
    radius = torch.tensor(0.2, requires_grad=True)
    (gradient,) = torch.autograd.grad(sphere_normals(0.3, 24, radius)[:, 2].sum(), radius)
    assert gradient > 0 and gradient.isfinite()
