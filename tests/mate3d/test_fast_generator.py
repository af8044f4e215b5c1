"""The fast path against the exact one, which is held to the golden numbers."""

import dataclasses
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mate3d.checkpoint import load_generator
from mate3d.network import synthesis
from mate3d.network.layers import SynthesisBlock
from mate3d.rendering import fast_rendering
from mate3d.rendering.fast_rendering import render_field_fast
from mate3d.rendering.field import AnyFieldProbe, open_probe
from mate3d.rendering.rays import DepthDraws, sample_rays
from mate3d.rendering.renderer import RenderingConfig, render_field
from mate3d.rendering.triplane import TriPlaneField, TriPlaneProbe
from tests.eg3d import make_generator
from tests.mate3d.fields import SphereField

DEMO = Path(__file__).parents[2] / "mate3d/assets/demo_cat"
SEGMENTATIONS = ("segmentation", "segmentation_raw")
IMAGES = ("feature_image", "segmentation_raw", "depth", "opacity", "normals")
RELEASED = RenderingConfig(
    density_activation="softplus_shifted",
    importance_bins="legacy_midpoints",
    background_class=None,
    num_coarse_samples=8,
    num_fine_samples=8,
)


def _assert_psnr(output, expected, names: tuple[str, ...], least: float) -> None:
    for name in names:
        error = (getattr(output, name) - getattr(expected, name)).square().mean()
        assert 10 * torch.log10(4 / error) > least, name


def _assert_same(view, expected, **tolerance: float) -> None:
    for name in IMAGES:
        value, other = getattr(view, name), getattr(expected, name)
        torch.testing.assert_close(value, other, **tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture
def field(tiny_generator) -> TriPlaneField:
    latents = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return tiny_generator.make_field(tiny_generator.map(latents, torch.zeros(2, 25)))


@pytest.fixture
def rays(camera) -> tuple[Tensor, Tensor]:
    return sample_rays(camera.expand(2, -1), 5)


def _assert_fast_is_exact(field, rays, config, tolerance=2e-5, fast=None, **options):
    with torch.no_grad():
        expected = render_field(field, *rays, config, with_normals=True, **options)
    view = render_field_fast(field, *rays, config, with_normals=True, **options, **(fast or {}))
    _assert_same(view, expected, atol=tolerance, rtol=max(tolerance, 1e-4))
    return view


@pytest.mark.parametrize(
    "config",
    [
        RELEASED,
        RenderingConfig(num_coarse_samples=8, num_fine_samples=8),
        RenderingConfig(num_coarse_samples=8, num_fine_samples=0, white_background=True),
    ],
)
def test_without_a_limit_every_image_is_the_exact_one_up_to_rounding(field, rays, config):
    for background in (field.background, None):
        field = dataclasses.replace(field, background=background)
        _assert_fast_is_exact(field, rays, config, fast={"negligible_weight": -1.0})


def test_tiles_do_not_change_the_view(field, rays, monkeypatch):
    expected = render_field_fast(field, *rays, RELEASED, with_normals=True)
    monkeypatch.setattr(fast_rendering, "_TILE_RAYS", 14)  # 7 of the 25 rays of two heads
    _assert_same(render_field_fast(field, *rays, RELEASED, with_normals=True), expected)


def test_random_and_given_depths_are_those_of_the_exact_path(field, rays):
    views = []
    for render in (render_field_fast, render_field):
        draws = DepthDraws("random", torch.Generator().manual_seed(3))
        with torch.no_grad():
            views.append(render(field, *rays, RELEASED, draws=draws, with_normals=True))
    _assert_same(*views, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(render_field_fast(field, *rays, RELEASED).depth, views[0].depth)
    depths = torch.linspace(2.4, 3.0, 6).view(1, 1, 6, 1).expand(2, 25, -1, -1)
    _assert_fast_is_exact(field, rays, RELEASED, depths=depths)


@pytest.mark.parametrize("is_single", [False, True])
def test_ways_to_look_planes_up_give_the_same_view(field, rays, monkeypatch, is_single):
    if is_single:
        field = dataclasses.replace(field, texture_planes=field.shape_planes)
    expected = render_field_fast(field, *rays, RELEASED)
    probe = partial(TriPlaneProbe, with_corners=False)
    monkeypatch.setattr(fast_rendering, "open_probe", probe)
    view = render_field_fast(field, *rays, RELEASED)
    for name in ("feature_image", "segmentation_raw", "depth", "opacity"):
        torch.testing.assert_close(getattr(view, name), getattr(expected, name), msg=name)


def test_any_field_renders(rays):
    config = RenderingConfig(num_coarse_samples=32, num_fine_samples=16)
    assert isinstance(open_probe(SphereField()), AnyFieldProbe)
    _assert_fast_is_exact(SphereField(), rays, config, 2e-3)


def test_rays_that_see_nothing_are_empty(rays):
    config = RenderingConfig(num_coarse_samples=8, num_fine_samples=4)
    far_away = SphereField(radius=-5.0)
    view = render_field_fast(far_away, *rays, config, with_normals=True)
    assert view.opacity.abs().max() < 1e-6 and view.normals.abs().max() == 0
    assert (view.segmentation_raw[:, 0] == 1).all()
    assert (view.depth == view.depth.max()).all()


@pytest.mark.parametrize("noise_mode", ["none", "const", "random"])
def test_planes_are_the_backbones_own(tiny_generator, noise_mode):
    for name, value in tiny_generator.named_parameters():
        if name.endswith("noise_strength"):
            value.data.fill_(0.3)
    ws = torch.randn(2, tiny_generator.num_ws, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.manual_seed(5)
        expected = tiny_generator.make_planes(ws, noise_mode=noise_mode)
        torch.manual_seed(5)
        planes = tiny_generator.make_planes(ws, noise_mode=noise_mode, exact=False)
    for value, other in zip(planes, expected, strict=True):
        torch.testing.assert_close(value, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("band_bytes", [1, 2**12, 2**20])
@pytest.mark.parametrize("by_tiles", [False, True])
def test_block_is_computed_in_bands_without_a_seam(monkeypatch, up, band_bytes, by_tiles):
    monkeypatch.setattr(synthesis, "_BAND_BYTES", band_bytes)
    monkeypatch.setattr(synthesis, "suits_winograd", lambda *_: by_tiles)
    torch.manual_seed(0)
    block = SynthesisBlock(3, 5, 4, 32, {"a": 2, "b": 3}, up=up, clamp=0.5)
    x, ws = torch.randn(2, 3, 32 // up, 32 // up), torch.randn(2, 3, 4)
    images = {name: torch.randn(2, n, 32 // up, 32 // up) for name, n in (("a", 2), ("b", 3))}
    with torch.no_grad():
        features, outputs = block(x, images, ws)
        fast_features, fast_outputs = synthesis._run_block(block, x, images, ws, "const")
    assert features.abs().max() == 0.5, "the clamp is not seen"
    torch.testing.assert_close(fast_features, features, atol=1e-5, rtol=1e-5)
    for name in images:
        torch.testing.assert_close(fast_outputs[name], outputs[name], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def _synthesize_both(generator, camera, **options):
    ws = generator.map(torch.randn(len(camera), generator.config.z_dim), camera, truncation_psi=0.7)
    return [generator.synthesize(ws, camera, **options, exact=exact) for exact in (False, True)]


@pytest.mark.parametrize("resolution", [8, 16])
def test_whole_generator_is_the_exact_one(tiny_generator, camera, resolution):
    options = {"neural_rendering_resolution": resolution, "with_normals": True}
    output, expected = _synthesize_both(tiny_generator, camera.expand(2, -1), **options)
    _assert_psnr(output, expected, ("image", "image_raw", *SEGMENTATIONS, "normals"), 60)
    torch.testing.assert_close(output.depth, expected.depth, atol=1e-3, rtol=1e-3)


def test_eg3d_generator_is_the_exact_one(camera):
    torch.manual_seed(0)
    output, expected = _synthesize_both(make_generator(), camera)
    assert output.segmentation is None
    _assert_psnr(output, expected, ("image",), 60)


def test_demo_generator_keeps_50_db():
    generator = load_generator(DEMO)
    camera = generator.config.camera_rig.make_camera(0.3, 0.1)
    images = _synthesize_both(generator, camera, with_normals=True)
    _assert_psnr(*images, ("image", "segmentation", "normals"), 70)


def test_fast_path_refuses_what_it_cannot_do(tiny_generator, camera):
    ws = torch.randn(1, tiny_generator.num_ws, 16)
    with pytest.raises(ValueError, match="with_samples"), torch.no_grad():
        tiny_generator.synthesize(ws, camera, with_samples=True, exact=False)
    with pytest.raises(ValueError, match="style vectors require"):
        tiny_generator.synthesize(ws.requires_grad_(), camera, exact=False)
    assert not tiny_generator(torch.randn(1, 12), camera, exact=False).image.requires_grad


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("noise_mode", ["none", "random"])
def test_images_do_not_depend_on_whether_there_is_a_segmentation(camera, exact, noise_mode):
    generator = make_generator(
        sr_noise_mode=noise_mode, label_set="catmask_hq", plane_branches="dual"
    )
    ws, outputs = torch.randn(1, generator.num_ws, generator.config.w_dim), []
    for with_segmentation in (True, False):
        with torch.no_grad():
            field = generator.make_field(ws)
            torch.manual_seed(0)
            options = {"with_segmentation": with_segmentation, "exact": exact}
            outputs.append(generator.render(field, ws, camera, **options))
    assert torch.equal(outputs[0].image, outputs[1].image)
    assert outputs[1].segmentation is None and outputs[1].segmentation_raw is None
