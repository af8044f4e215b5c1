"""Tests of the sphere tracer."""

import pytest
import torch

from mate3d.cameras import make_camera, mirror_camera
from mate3d.labels import CATMASK_HQ
from mate3d.procedural.cats.cat import CatParameters, cat_parameters_from_latent
from mate3d.procedural.cats.cat_field import CatField
from mate3d.procedural.tracer import AnalyticRender, render_analytic
from mate3d.rendering.rays import sample_rays
from tests.mate3d.fields import latents

NUM_CATS = 3
RESOLUTION = 64


@pytest.fixture(scope="module")
def parameters() -> CatParameters:
    return cat_parameters_from_latent(latents(NUM_CATS, seed=7))


@pytest.fixture(scope="module")
def frontal(parameters) -> AnalyticRender:
    return render_analytic(CatField(parameters), make_camera(torch.zeros(NUM_CATS)), RESOLUTION)


def row_centroids(label_map: torch.Tensor, class_name: str) -> torch.Tensor:
    mask = (label_map == CATMASK_HQ.class_id(class_name)).float()
    rows = torch.arange(label_map.shape[1], dtype=torch.float32)[None, :, None]
    return (mask * rows).sum(dim=(1, 2)) / mask.sum(dim=(1, 2))


def test_ears_above_eyes_above_nose_above_mouth(frontal):
    rows = [row_centroids(frontal.label_map, name) for name in ("ears", "eyes", "nose", "mouth")]
    for upper, lower in zip(rows[:-1], rows[1:], strict=True):
        assert (upper < lower).all()


def test_depth_leads_to_the_surface_and_is_zero_on_background(parameters):
    field, camera = CatField(parameters), make_camera(torch.full((NUM_CATS,), 0.5), 0.2)
    render = render_analytic(field, camera, 32, supersampling=1)
    origins, directions = sample_rays(camera, 32)
    depth = render.depth.flatten(1)[..., None]
    seen = (render.label_map > 0).flatten(1)
    assert ((depth[..., 0] > 0) == seen).all()
    at_surface = field.sample(origins + depth * directions)
    assert at_surface.sdf[seen].abs().max() < 1e-3
    labels = at_surface.class_sdf.argmin(dim=-1)
    assert (labels == render.label_map.flatten(1))[seen].all()


def test_background_shows_its_color_and_has_no_normal(frontal, parameters):
    empty = frontal.opacity[:, 0] == 0
    for index in range(NUM_CATS):
        pixels = frontal.image[index, :, empty[index]]
        expected = parameters.background_color[index] * 2 - 1
        torch.testing.assert_close(pixels, expected[:, None].expand_as(pixels))
    assert (frontal.normals.norm(dim=1)[frontal.label_map == 0] == 0).all()


def test_normals_are_unit_and_face_the_camera(frontal):
    seen = frontal.label_map > 0
    norms = frontal.normals.norm(dim=1)
    torch.testing.assert_close(norms[seen], torch.ones_like(norms[seen]), rtol=0, atol=1e-3)
    # Frontal rays run nearly along -z, so seen surfaces have normals with positive z.
    assert (frontal.normals[:, 2][seen] > -0.15).all()


def test_mirrored_camera_sees_the_mirrored_portrait(parameters):
    field, camera = CatField(parameters), make_camera(torch.full((NUM_CATS,), 0.4), 0.1)
    first = render_analytic(field, camera, 32, supersampling=1)
    second = render_analytic(field, mirror_camera(camera), 32, supersampling=1)
    agreement = (first.label_map == second.label_map.flip(-1)).float().mean()
    assert agreement > 0.998
    seen = (first.label_map > 0) & (second.label_map.flip(-1) > 0)
    difference = (first.depth - second.depth.flip(-1)).abs()[:, 0][seen]
    assert difference.median() < 1e-3


def test_camera_that_looks_away_sees_background_only(parameters):
    camera = make_camera(torch.zeros(1), target=(3.0, 0.0, 2.7))
    render = render_analytic(CatField(parameters[:1]), camera, 16)
    assert (render.label_map == 0).all() and (render.opacity == 0).all()
