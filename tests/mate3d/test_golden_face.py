"""The reduced-size published network reproduces every recorded stage (tests/data/README.md)."""

import pytest
import torch

from mate3d.network.sdf_decoder import sdf_to_density
from mate3d.rendering.field import sdf_gradient
from mate3d.rendering.rays import (
    DepthDraws,
    importance_depths,
    interval_weights,
    sample_rays,
    stratified_depths,
)
from mate3d.rendering.renderer import march_classes
from tests.golden import (
    assert_golden,
    golden_face,
    make_golden_discriminator,
    make_golden_generator,
)
from tests.reference.ops import look_up_each_plane


@pytest.fixture(scope="module")
def face():
    return golden_face()


@pytest.fixture(scope="module")
def generator():
    return make_golden_generator()


def render(generator, face, resolution, draws=None):
    return generator.synthesize(
        face["in.ws"],
        face["in.c"],
        neural_rendering_resolution=resolution,
        draws=draws,
        with_samples=True,
    )


def test_mapping_and_truncation_match(face, generator):
    z, camera = face["in.z"], face["in.c_cond"]
    assert_golden(generator.map(z, camera), face["map.ws"])
    assert_golden(generator.map(z, camera, truncation_psi=0.7), face["map.ws_psi0.7"])
    cut = generator.map(z, camera, truncation_psi=0.5, truncation_cutoff=3)
    assert_golden(cut, face["map.ws_psi0.5_cut3"])


def test_planes_match(face, generator):
    texture, shape = generator.make_planes(face["in.ws"])
    assert_golden(texture.flatten(1, 2), face["planes.tex"])
    assert_golden(shape.flatten(1, 2), face["planes.shp"])


def test_planes_without_noise_match(face, generator):
    texture, shape = generator.make_planes(face["in.ws"], noise_mode="none")
    assert_golden(texture.flatten(1, 2)[:1, ::8], face["planes_nonoise.tex"])
    assert_golden(shape.flatten(1, 2)[:1, ::8], face["planes_nonoise.shp"])


def test_point_samples_and_gradients_match(face, generator):
    field = generator.make_field(face["in.ws"])
    points = face["pts.xyz"].clone().requires_grad_(True)
    for planes, name in ((field.texture_planes, "tex"), (field.shape_planes, "shp")):
        features = look_up_each_plane(planes, points, field.box_size, field.plane_layout)
        assert_golden(features, face[f"pts.feat_{name}"])
    samples = field.sample(points)
    assert_golden(samples.features, face["pts.rgb"])
    assert_golden(samples.sdf, face["pts.sdf"])
    assert_golden(samples.class_sdf, face["pts.aux_sdf"])
    assert_golden(field.density(samples.sdf), face["pts.sigma"])
    assert_golden(field.density(samples.class_sdf), face["pts.aux_sigma"])
    assert_golden(field.sdf(points), face["pts.sdf"])
    assert_golden(sdf_gradient(samples.sdf, points), face["pts.sdf_grad"])
    assert_golden(sdf_gradient(samples.class_sdf[..., 1:2], points), face["pts.aux_sdf_grad1"])


def test_depth_sampling_matches(face, generator):
    config = generator.config.rendering
    origins, directions = sample_rays(face["in.c"], 16)
    assert_golden(origins, face["r16.ray_origins"])
    assert_golden(directions, face["r16.ray_dirs"])
    coarse = stratified_depths(origins.new_full((2, 256, 12, 1), 0.5), config.near, config.far)
    assert_golden(coarse, face["r16.depth_coarse"])
    field = generator.make_field(face["in.ws"])
    points = origins.unsqueeze(2) + coarse * directions.unsqueeze(2)
    density = field.density(field.sdf(points.flatten(1, 2))).view_as(coarse)
    weights = interval_weights(density, coarse, "softplus_shifted")
    assert_golden(weights, face["r16.weights_coarse"])
    uniforms = DepthDraws().importance_uniforms(512, 12, coarse)
    fine = importance_depths(coarse, weights, uniforms, "legacy_midpoints")
    assert_golden(fine, face["r16.depth_fine"])


def test_render_at_16_matches_images_and_samples(face, generator):
    view = render(generator, face, 16)
    assert_golden(view.image, face["r16.image"])
    assert_golden(view.image_raw, face["r16.image_raw"])
    assert_golden(view.depth, face["r16.image_depth"])
    assert_golden(view.segmentation_raw, face["r16.semantic_raw"])
    assert_golden(view.segmentation, face["r16.semantic"])
    samples = view.samples
    assert_golden(samples.depths, face["r16.all_depths"])
    assert_golden(samples.sdf, face["r16.all_sdf"])
    assert_golden(samples.density, face["r16.all_densities"])
    assert_golden(samples.points.view_as(face["r16.pts"]), face["r16.pts"])


def test_class_marches_match(face, generator):
    samples = render(generator, face, 16).samples
    class_density = sdf_to_density(samples.class_sdf, generator.decoder.beta)
    images, depths = march_classes(samples, class_density, generator.config.rendering)
    assert_golden(images, face["r16.image_raw_seg"])
    assert_golden(depths, face["r16.image_depth_seg"])


@pytest.mark.parametrize("resolution", [12, 24])
def test_renders_that_are_resized_match(face, generator, resolution):
    prefix = f"r{resolution}"
    draws = None
    if resolution == 12:
        draws = DepthDraws(stratified=face["r12.u_strat"], importance=face["r12.u_pdf"])
    view = render(generator, face, resolution, draws)
    assert_golden(view.image, face[f"{prefix}.image"])
    assert_golden(view.image_raw, face[f"{prefix}.image_raw"])
    assert_golden(view.depth, face[f"{prefix}.image_depth"])
    assert_golden(view.segmentation_raw, face[f"{prefix}.semantic_raw"])
    assert_golden(view.segmentation[..., ::4, ::4], face[f"{prefix}.semantic"])


@torch.no_grad()
def test_fast_path_keeps_50_db_to_the_published_images(face, generator):
    draws = DepthDraws(stratified=face["r12.u_strat"], importance=face["r12.u_pdf"])
    for resolution, numbers in ((12, draws), (16, None), (24, None)):
        view = generator.synthesize(
            face["in.ws"],
            face["in.c"],
            neural_rendering_resolution=resolution,
            draws=numbers,
            exact=False,
        )
        for value, name in (
            (view.image, "image"),
            (view.image_raw, "image_raw"),
            (view.segmentation_raw, "semantic_raw"),
        ):
            error = (value - face[f"r{resolution}.{name}"]).square().mean()
            assert 10 * torch.log10(4 / error) > 50, (resolution, name)


def test_discriminators_match(face):
    discriminator = make_golden_discriminator("D")
    semantic_discriminator = make_golden_discriminator("Ds")
    fake, fake_raw, camera = face["r16.image"], face["r16.image_raw"], face["in.c"]
    assert_golden(discriminator(fake, fake_raw, camera), face["disc.D_fake"])
    first = discriminator(fake[:1], fake_raw[:1], camera[:1])
    assert_golden(first, face["disc.D_fake_b1"])
    joined = torch.cat([fake, face["r16.semantic"]], dim=1)
    joined_raw = torch.cat([fake_raw, face["r16.semantic_raw"]], dim=1)
    assert_golden(semantic_discriminator(joined, joined_raw, camera), face["disc.Ds_fake"])
    real, camera = face["real.image"], face["real.c"]
    assert_golden(discriminator(real, face["real.image_raw"], camera), face["disc.D_real"])
    classes = torch.arange(19).view(1, -1, 1, 1)
    masks = 2 * (face["real.seg_ids"].unsqueeze(1) == classes).float() - 1
    joined = torch.cat([real, masks], dim=1)
    joined_raw = torch.cat([face["real.image_raw"], 2 * face["real.seg_raw"] - 1], dim=1)
    assert_golden(semantic_discriminator(joined, joined_raw, camera), face["disc.Ds_real"])
