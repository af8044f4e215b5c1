"""The trained generators of the tests of scale show cats, and the demo's show the same one."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from torchmetrics.classification import MulticlassJaccardIndex

from mate3d.generator import Generator, RenderOutput
from mate3d.network.mapping import latents_from_seeds
from mate3d.procedural.tracer import render_analytic
from tests.editing.generators import demo_cat, demo_in_units, large_demo, soft_cat, steep_demo
from training.start.warm_start import portraits_of


@torch.no_grad()
def render_side_view(generator: Generator) -> RenderOutput:
    """Render the cat of seed 0, seen from the side."""
    camera = generator.config.camera_rig.make_camera(0.4)
    z = latents_from_seeds([0], generator.config.z_dim)
    return generator(z, camera, exact=False)


def label_map_of(output: RenderOutput) -> Tensor:  # [1, H, W]
    """Return the label of each pixel."""
    return output.segmentation.argmax(dim=1)


@pytest.fixture(scope="module")
def expected() -> RenderOutput:
    return render_side_view(demo_cat())


def test_the_demo_in_other_units_makes_the_same_picture(expected):
    output = render_side_view(demo_in_units())

    torch.testing.assert_close(output.image, expected.image, rtol=0, atol=1e-3)
    torch.testing.assert_close(output.segmentation, expected.segmentation, rtol=0, atol=1e-3)


def test_the_steep_demo_has_nearly_the_demos_labels(expected):
    generator = steep_demo()
    output = render_side_view(generator)

    agrees = label_map_of(output) == label_map_of(expected)
    assert agrees.float().mean() > 0.97
    assert set(label_map_of(output).unique().tolist()) == set(range(6))


def test_the_steep_demos_distances_and_width_are_those_of_the_demo_times_20():
    points = torch.rand(1, 500, 3, generator=torch.Generator().manual_seed(0)) * 0.6 - 0.3
    z = latents_from_seeds([0], demo_cat().config.z_dim)
    fields = [
        generator.make_field(generator.map(z, generator.config.camera_rig.make_camera()))
        for generator in (demo_cat(), steep_demo())
    ]
    near, far = (field.sample(points) for field in fields)

    torch.testing.assert_close(far.sdf, 20 * near.sdf)
    torch.testing.assert_close(far.class_sdf, 20 * near.class_sdf)
    torch.testing.assert_close(
        fields[1].density(far.sdf), fields[0].density(near.sdf) / 20, rtol=1e-3, atol=1e-3
    )


def test_the_large_demo_shows_the_demos_cat_with_twice_the_pixels(expected):
    output = render_side_view(large_demo())

    assert output.image.shape[-1] == 2 * expected.image.shape[-1]
    assert output.image_raw.shape[-1] == 2 * expected.image_raw.shape[-1]
    error = adaptive_avg_pool2d(output.image, 128) - expected.image
    assert error.abs().mean() < 0.03
    enlarged = interpolate(label_map_of(expected)[:, None].float(), scale_factor=2)[:, 0]
    assert (label_map_of(output) == enlarged).float().mean() > 0.97


@torch.no_grad()
def test_the_soft_generator_shows_the_labels_of_its_latents_cats():
    generator = soft_cat()
    rig, z = generator.config.camera_rig, latents_from_seeds(range(6), generator.config.z_dim)
    camera = rig.make_camera(torch.linspace(-0.6, 0.6, 6))
    output = generator(z, camera)
    truth = render_analytic(portraits_of(generator, z), camera, generator.config.resolution)

    assert all(value.isfinite().all() for value in (output.image, output.segmentation))
    iou = MulticlassJaccardIndex(num_classes=6)(label_map_of(output), truth.label_map)
    assert iou > 0.7
    assert (output.image - truth.image).abs().mean() < 0.15


def test_the_soft_generator_renders_as_the_release_does():
    config = soft_cat().config

    assert config.beta == 0.1
    assert config.plane_layout == "eg3d_legacy"
    assert config.rendering.density_activation == "softplus_shifted"
    assert config.rendering.importance_bins == "legacy_midpoints"
    assert config.rendering.background_class is None
