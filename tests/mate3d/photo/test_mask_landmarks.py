"""Tests of landmarks out of label maps."""

import numpy as np
import pytest
import torch

from mate3d.cameras import make_camera
from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ, get_label_set
from mate3d.photo.landmarks import five_landmarks
from mate3d.photo.mask_landmarks import landmarks_from_mask
from mate3d.procedural.cats.cat import NUM_CAT_ATTRIBUTES, cat_parameters_from_uniforms
from mate3d.procedural.cats.cat_field import CatField
from mate3d.procedural.tracer import render_analytic
from tests.mate3d.photo.heads import draw_face, mirror_landmarks

MERGED = get_label_set("face_8")
FACE_SETS = [
    get_label_set(name)
    for name in ("celebamask_hq", "face_parsing_bisenet", "sofgan", "face_15", "face_8")
]
CAT_LANDMARKS = {"left_eye", "right_eye", "nose", "mouth", "left_ear", "right_ear"}


def cat_label_map(yaw: float, size: int = 128) -> np.ndarray:
    cat = cat_parameters_from_uniforms(torch.full((1, NUM_CAT_ATTRIBUTES), 0.5))
    render = render_analytic(CatField(cat), make_camera(yaw), size, supersampling=1)
    return render.label_map[0].numpy().astype(np.uint8)


@pytest.mark.parametrize("label_set", FACE_SETS, ids=lambda one: one.name)
def test_five_points_of_a_drawn_face_lie_where_it_was_drawn(label_set):
    five = five_landmarks(landmarks_from_mask(draw_face(label_set), label_set))
    drawn = [(38.5, 41.5), (62.5, 41.5), (50.5, 58.5), (38.5, 70.5), (62.5, 70.5)]
    np.testing.assert_allclose(five, drawn, atol=1.6)


def test_sides_follow_the_picture_even_where_classes_are_swapped():
    label_map = draw_face(CELEBAMASK_HQ)
    swap = np.array(CELEBAMASK_HQ.mirror_permutation(), np.uint8)
    assert landmarks_from_mask(swap[label_map], CELEBAMASK_HQ) == landmarks_from_mask(
        label_map, CELEBAMASK_HQ
    )


@pytest.mark.parametrize("label_set", FACE_SETS, ids=lambda one: one.name)
def test_flipped_face_has_mirrored_landmarks(label_set):
    label_map = draw_face(label_set)
    label_map[:, :30] = 0
    expected = mirror_landmarks(landmarks_from_mask(label_map, label_set), 100)
    flipped = landmarks_from_mask(label_map[:, ::-1], label_set)
    assert flipped.keys() == expected.keys()
    for name, point in expected.items():
        assert flipped[name] == pytest.approx(point)


def test_far_corner_of_a_mouth_behind_the_nose_is_left_out():
    label_map = draw_face(CELEBAMASK_HQ)
    nose = CELEBAMASK_HQ.class_id("nose")
    label_map[label_map == nose] = CELEBAMASK_HQ.class_id("skin")
    label_map[45:62, 64:70] = nose
    landmarks = landmarks_from_mask(label_map, CELEBAMASK_HQ)
    assert "left_mouth" in landmarks and "right_mouth" not in landmarks
    assert five_landmarks(landmarks) is None


def test_specks_do_not_move_landmarks():
    label_map = draw_face(MERGED)
    expected = landmarks_from_mask(label_map, MERGED)
    for name in ("eyes", "nose", "mouth"):
        label_map[10 + 5 * MERGED.class_id(name), 2:4] = MERGED.class_id(name)
    assert landmarks_from_mask(label_map, MERGED) == expected


def test_eye_that_a_strand_of_hair_parts_stays_one_eye():
    label_map = draw_face(MERGED)
    label_map[:, 38] = MERGED.class_id("hair")
    landmarks = landmarks_from_mask(label_map, MERGED)
    assert landmarks["left_eye"] == pytest.approx((38.5, 41.5), abs=0.6)
    assert landmarks["right_eye"] == pytest.approx((62.5, 41.5), abs=0.6)
    label_map[30:50, 50:] = MERGED.class_id("skin")
    assert "right_eye" not in landmarks_from_mask(label_map, MERGED)


def test_parts_that_the_picture_cuts_off_are_left_out():
    label_map = cat_label_map(0.0)
    assert landmarks_from_mask(label_map, CATMASK_HQ).keys() == CAT_LANDMARKS
    top = np.argwhere(label_map == CATMASK_HQ.class_id("ears"))[:, 0].min()
    landmarks = landmarks_from_mask(label_map[top + 4 :], CATMASK_HQ)
    assert landmarks.keys() == CAT_LANDMARKS - {"left_ear", "right_ear"}


def test_cat_in_profile_keeps_the_near_eye_on_its_side():
    for yaw, near, far in ((-1.0, "left_eye", "right_eye"), (1.0, "right_eye", "left_eye")):
        landmarks = landmarks_from_mask(cat_label_map(yaw), CATMASK_HQ)
        assert near in landmarks and far not in landmarks, yaw
        assert (landmarks[near][0] - landmarks["nose"][0]) * yaw > 0


def test_label_set_without_parts_of_a_face_is_an_error():
    with pytest.raises(UserError, match="face_5.*eyes"):
        landmarks_from_mask(np.zeros((16, 16), np.uint8), get_label_set("face_5"))
