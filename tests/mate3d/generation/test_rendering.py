"""Heads and views: mixing, interpolation, tiles, precision."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mate3d.cameras import CameraRig
from mate3d.errors import UserError
from mate3d.generation import rendering
from mate3d.generation.rendering import (
    Head,
    HeadMaker,
    Precision,
    ViewRenderer,
    interpolate_styles,
    move_range,
)
from mate3d.outputs.visualize import ContactSheet
from mate3d.rendering.field import FieldSamples
from mate3d.rendering.renderer import RenderingConfig
from tests.mate3d.fields import SphereField

CPU = Precision(torch.device("cpu"))
EXACT = Precision(CPU.device, exact=True)
OUTPUTS = ("image", "image_raw", "segmentation", "segmentation_raw", "depth", "opacity", "normals")


def _renderer(generator, precision=CPU, **options) -> ViewRenderer:
    config = generator.config
    arguments = {"rendering": config.rendering, "resolution": 8, "with_normals": True} | options
    return ViewRenderer(generator, precision, **arguments)


def test_mixed_head_has_the_shape_of_one_seed_and_the_texture_of_another(tiny_generator):
    maker = HeadMaker(tiny_generator, CPU)
    shape, texture, mixed = maker.from_seed(1), maker.from_seed(2), maker.mixed(1, 2)
    points = (torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.7
    values = mixed.field.sample(points)
    assert torch.equal(values.sdf, shape.field.sample(points).sdf)
    assert torch.equal(values.class_sdf, shape.field.sample(points).class_sdf)
    assert torch.equal(values.features, texture.field.sample(points).features)
    assert torch.equal(mixed.ws, texture.ws)
    assert torch.equal(mixed.field.background, texture.field.background)
    assert not torch.equal(values.sdf, texture.field.sample(points).sdf)


def test_interpolation_passes_through_each_style_and_closes_without_a_kink():
    styles = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    path = torch.cat(list(interpolate_styles(styles, 50)))
    assert path.shape == (200, 2, 3)
    assert torch.equal(path[::50], styles)
    closed = torch.cat([path, path[:2]]).double()
    velocity = closed[1:] - closed[:-1]
    acceleration = (velocity[1:] - velocity[:-1]).abs().amax(dim=(1, 2))
    # Where pieces of the path meet, also at its end, velocity changes no faster than elsewhere.
    joints = torch.tensor([48, 49, 98, 99, 148, 149, 198, 199])
    inner = torch.ones(200, dtype=torch.bool).index_fill(0, joints, False)
    assert acceleration[joints].max() <= acceleration[inner].max() * 1.05


@pytest.mark.parametrize("precision", [CPU, EXACT])
def test_view_is_the_generators_own_render(tiny_generator, camera, precision):
    head = HeadMaker(tiny_generator, precision).from_seed(3)
    output = _renderer(tiny_generator, precision).render(head, camera)
    with torch.no_grad():
        expected = tiny_generator.synthesize(
            head.ws, camera, with_normals=True, exact=precision.exact
        )
    for name in OUTPUTS:
        torch.testing.assert_close(getattr(output, name), getattr(expected, name), msg=name)


def test_segmentation_that_nobody_asks_for_is_not_rendered(tiny_generator, camera):
    head = HeadMaker(tiny_generator, CPU).from_seed(3)
    expected = _renderer(tiny_generator).render(head, camera)
    output = _renderer(tiny_generator, with_segmentation=False).render(head, camera)
    assert output.segmentation is None and output.segmentation_raw is None
    assert torch.equal(output.image, expected.image)


@pytest.mark.parametrize("side", [3, 4])
def test_tiles_make_the_same_view(tiny_generator, camera, monkeypatch, side):
    head = HeadMaker(tiny_generator, CPU).from_seed(3)
    expected = _renderer(tiny_generator).render(head, camera)
    monkeypatch.setattr(rendering, "_TILE_SIDE", side)
    output = _renderer(tiny_generator).render(head, camera)
    for name in OUTPUTS:
        torch.testing.assert_close(getattr(output, name), getattr(expected, name), msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_runs_and_stays_near(tiny_generator, camera, dtype):
    expected = _renderer(tiny_generator).render(HeadMaker(tiny_generator, CPU).from_seed(3), camera)
    low = Precision(CPU.device, dtype)
    output = _renderer(tiny_generator, low).render(
        HeadMaker(tiny_generator, low).from_seed(3), camera
    )
    for name in OUTPUTS:
        value = getattr(output, name)
        assert value.dtype == torch.float32
        assert not torch.equal(value, getattr(expected, name)), f"{name} was not in {dtype}"
        torch.testing.assert_close(value, getattr(expected, name), atol=0.1, rtol=0.1)


def test_low_precision_leaves_rays_and_compositing_alone(tiny_generator, camera):
    class Ball(SphereField):
        """A ball with as many features and classes as the generator's heads."""

        def sample(self, points: Tensor) -> FieldSamples:
            values = super().sample(points)
            features = torch.cat([values.features] * 3, dim=-1)[..., :8]
            return FieldSamples(features, values.sdf, torch.cat([values.class_sdf] * 3, dim=-1))

    head = Head("ball", Ball(), torch.zeros(1, tiny_generator.num_ws, 16))
    exact = _renderer(tiny_generator).render(head, camera)
    low = _renderer(tiny_generator, Precision(CPU.device, torch.bfloat16)).render(head, camera)
    for name in ("depth", "opacity", "normals", "image_raw"):
        assert torch.equal(getattr(exact, name), getattr(low, name)), name
    assert not torch.equal(exact.image, low.image)


def test_overflow_is_an_error(tiny_generator, camera):
    head = HeadMaker(tiny_generator, CPU).from_seed(0)
    head = dataclasses.replace(head, ws=head.ws * float("inf"))
    with pytest.raises(UserError, match="seed0000: .*precision=fp32"):
        _renderer(tiny_generator).render(head, camera)


def test_cameras_further_away_see_the_same_depth_range_of_the_head(tiny_generator):
    near_rig, far_rig = CameraRig(), CameraRig(radius=3.7)
    config = RenderingConfig(num_coarse_samples=64, num_fine_samples=0)
    moved = move_range(config, far_rig, near_rig)
    assert (moved.near, moved.far) == (config.near + 1, config.far + 1)
    assert move_range(config, near_rig, near_rig) == config
    head = HeadMaker(tiny_generator, CPU).from_seed(0)
    centers = []
    for rig, rendering_config in ((near_rig, config), (far_rig, moved)):
        # One ray through the centre sees the same samples from both distances.
        output = _renderer(tiny_generator, rendering=rendering_config, resolution=1).render(
            head, rig.make_camera()
        )
        centers.append((output.opacity.item(), output.depth.item() - rig.radius))
    assert centers[0] == pytest.approx(centers[1], abs=1e-4)
    with pytest.raises(UserError, match="views.radius=0.4 is inside the volume; use more"):
        move_range(config, CameraRig(radius=0.4), near_rig)


def test_random_noise_is_the_same_for_each_view(tiny_generator, camera):
    tiny_generator.config = dataclasses.replace(tiny_generator.config, sr_noise_mode="random")
    tiny_generator.superresolution.noise_mode = "random"
    for name, parameter in tiny_generator.superresolution.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.5)
    head, renderer = HeadMaker(tiny_generator, CPU).from_seed(0), _renderer(tiny_generator)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    images = [renderer.render(head, camera).image for _ in range(2)]
    assert torch.equal(*images)
    assert torch.equal(torch.get_rng_state(), state)


def test_sheet_keeps_whole_rows_and_fills_the_last_with_black(tmp_path):
    sheet = ContactSheet(columns=3, max_tiles=8)
    assert sheet.capacity == 6
    for level in (40, 80, 120, 160):
        assert not sheet.is_full
        sheet.add(torch.full((1, 3, 2, 2), (level - 128) / 127.5))
    sheet.save(tmp_path / "sheet.png")
    pixels = np.array(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape == (4, 6, 3)
    assert pixels[::2, ::2, 0].tolist() == [[40, 80, 120], [160, 0, 0]]
