"""Rendering of a ball with known silhouette, depth, normals and labels."""

import math

import torch

from mate3d.cameras import make_camera
from mate3d.rendering.rays import interval_weights, sample_rays
from mate3d.rendering.renderer import RenderingConfig, render_field
from tests.mate3d.fields import SphereField

CONFIG = RenderingConfig(near=2.3, far=3.1, num_coarse_samples=64, num_fine_samples=64)


def render_ball(camera, resolution=48, field=None, **options):
    origins, directions = sample_rays(camera, resolution)
    return render_field(field or SphereField(), origins, directions, CONFIG, **options)


def test_a_ball_renders_as_a_disc_of_the_right_area_from_any_side():
    camera = make_camera(torch.tensor([0.0, 0.6, -0.7]), torch.tensor([0.0, 0.3, -0.4]))
    opacity = render_ball(camera).opacity
    # The silhouette is a cone of half angle arcsin(radius / distance).
    radius_in_image = 4.2647 * math.tan(math.asin(0.2 / 2.7))
    area = opacity.mean(dim=(1, 2, 3))
    torch.testing.assert_close(
        area, torch.full((3,), math.pi * radius_in_image**2), rtol=0.03, atol=0
    )


def test_depth_normals_and_labels_of_the_centre_are_those_of_the_ball():
    camera = make_camera(0.5, 0.2)
    view = render_ball(camera, resolution=49, with_normals=True)
    centre = (0, slice(None), 24, 24)
    assert abs(view.depth[centre].item() - 2.5) < 0.01
    towards_camera = camera[0, :16].view(4, 4)[:3, 3] / 2.7
    torch.testing.assert_close(view.normals[centre], towards_camera, atol=0.02, rtol=0)
    label_map = view.segmentation_raw.argmax(dim=1)
    assert label_map[0, 24, 24] == 1 and label_map[0, 0, 0] == 0
    corner = (0, slice(None), 0, 0)
    torch.testing.assert_close(
        view.segmentation_raw[corner], torch.tensor([1.0, -1.0]), atol=1e-2, rtol=0
    )


def test_what_shines_through_is_the_background():
    blue = torch.tensor([[0.0, 0.0, 1.0]])
    view = render_ball(make_camera(0.0), field=SphereField(background=blue))
    corner, centre = view.feature_image[0, :, 0, 0], view.feature_image[0, :, 24, 24]
    torch.testing.assert_close(corner, torch.tensor([-1.0, -1.0, 1.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(centre, torch.tensor([1.0, -1.0, -1.0]), atol=1e-2, rtol=0)


def test_importance_bins_of_the_lineage_sample_nearer_than_the_surface():
    rays, near_surface = sample_rays(make_camera(0.0), 1), {}
    for bins in ("intervals", "legacy_midpoints"):
        config = RenderingConfig(2.3, 3.1, 24, 64, importance_bins=bins)
        samples = render_field(SphereField(), *rays, config, with_samples=True).samples
        near_surface[bins] = (samples.sdf.abs() < 0.02).sum()
    assert near_surface["intervals"] > near_surface["legacy_midpoints"]


def test_empty_space_absorbs_only_with_the_activation_of_published_weights():
    depths = torch.linspace(2.25, 3.3, 33).view(1, 1, -1, 1)
    empty = torch.zeros_like(depths)
    assert interval_weights(empty, depths, "identity").sum() == 0
    absorbed = interval_weights(empty, depths, "softplus_shifted").sum()
    expected = 1 - math.exp(-math.log(1 + math.exp(-1)) * 1.05)
    torch.testing.assert_close(absorbed.item(), expected, atol=1e-4, rtol=0)
