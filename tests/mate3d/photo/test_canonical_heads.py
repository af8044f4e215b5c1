"""Tests of the average heads."""

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

from mate3d.cameras import make_camera
from mate3d.labels import CATMASK_HQ
from mate3d.photo.alignment import eg3d_crop, ffhq_crop
from mate3d.photo.canonical_heads import CAT, EG3D_PERSON, FFHQ_PERSON, PERSON
from mate3d.photo.landmarks import five_landmarks
from mate3d.photo.mask_landmarks import landmarks_from_mask
from mate3d.procedural.cats.cat import NUM_CAT_ATTRIBUTES, cat_parameters_from_uniforms
from mate3d.procedural.cats.cat_field import CatField
from mate3d.procedural.tracer import render_analytic
from tests.mate3d.photo.heads import mirror_landmarks, project

SIZE = 128


def triangulate(views: list[tuple[torch.Tensor, tuple[float, float]]]) -> np.ndarray:
    def errors(point: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [np.subtract(project({"p": point}, camera, SIZE)["p"], seen) for camera, seen in views]
        )

    return least_squares(errors, [0.0, 0.0, 0.1]).x


def test_cat_is_the_average_procedural_cat_as_its_label_maps_show_it():
    cat = cat_parameters_from_uniforms(torch.full((1, NUM_CAT_ATTRIBUTES), 0.5))
    views = {name: [] for name in CAT.points}
    for yaw in (-0.6, -0.3, 0.0, 0.3, 0.6):
        for pitch in (-0.3, 0.0, 0.3):
            camera = make_camera(yaw, pitch)
            render = render_analytic(CatField(cat), camera, SIZE, supersampling=1)
            for name, point in landmarks_from_mask(render.label_map[0].numpy(), CATMASK_HQ).items():
                views[name].append((camera, point))
    for name, point in CAT.points.items():
        assert len(views[name]) >= 9, name
        np.testing.assert_allclose(triangulate(views[name]), point, atol=0.006, err_msg=name)


@pytest.mark.parametrize(
    "head", [CAT, PERSON, FFHQ_PERSON, EG3D_PERSON], ids=["cat", "rig", "ffhq", "eg3d"]
)
def test_heads_are_symmetric_and_every_landmark_has_a_spread(head):
    assert head.points.keys() == head.spread.keys()
    for shape in (head.points, *head.modes):
        assert shape.keys() <= head.points.keys()
        frontal = {name: (x, y) for name, (x, y, _) in shape.items()}
        assert mirror_landmarks(frontal, 0) == frontal


@pytest.mark.parametrize(
    ("head", "make_crop"),
    [(FFHQ_PERSON, ffhq_crop), (EG3D_PERSON, eg3d_crop)],
    ids=["ffhq", "eg3d"],
)
def test_views_of_a_framed_head_are_already_cropped(head, make_crop):
    for yaw, pitch in ((0.0, 0.0), (0.5, 0.0), (-0.3, 0.15)):
        five = five_landmarks(project(head.points, make_camera(yaw, pitch), SIZE))
        crop = make_crop(five, SIZE)
        np.testing.assert_allclose(crop.center, SIZE / 2, atol=0.03 * SIZE)
        assert crop.side == pytest.approx(SIZE, rel=0.08)
        assert abs(crop.turn) < 0.05
