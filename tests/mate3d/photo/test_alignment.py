"""Tests of the crops of photos."""

import itertools
import math

import numpy as np
import pytest
from PIL import Image
from skimage.transform import SimilarityTransform, warp

from mate3d.cameras import make_camera
from mate3d.errors import UserError
from mate3d.photo.alignment import FACE_DECIMETRES, Crop, eg3d_crop, ffhq_crop, middle_box
from mate3d.photo.landmarks import named_landmarks
from tests.mate3d.photo.heads import project

FRONTAL = np.array([[40.0, 40.0], [60, 40], [50, 52], [43, 62], [57, 62]])
LEFT_EYE, RIGHT_EYE, NOSE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def turned(points: np.ndarray, angle: float, scale: float, shift: tuple) -> np.ndarray:
    """Turn points clockwise in the picture, scale and shift them."""
    matrix = scale * np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return points @ matrix.T + shift


def draw_discs(points: np.ndarray, size: tuple[int, int], radius: float) -> Image.Image:
    rows, columns = np.mgrid[: size[1], : size[0]] + 0.5
    picture = np.full((size[1], size[0], 3), 128, np.uint8)
    for (x, y), color in zip(points, (LEFT_EYE, RIGHT_EYE, NOSE), strict=False):
        picture[np.hypot(columns - x, rows - y) < radius] = color
    return Image.fromarray(picture)


def center_of(picture: np.ndarray, color: tuple) -> np.ndarray:
    near = (np.abs(picture.astype(int) - color) < 60).all(axis=-1)
    return np.argwhere(near)[:, ::-1].mean(axis=0) + 0.5


@pytest.mark.parametrize("angle", [-2.5, -0.4, 0.0, 0.3, 1.5, 3.0])
def test_eyes_are_level_and_centred_after_ffhq_alignment(angle):
    five = turned(FRONTAL, angle, 7.0, (300.0, -80.0))
    crop = ffhq_crop(five, 1000)
    left, right, *_ = crop.move_points(five)
    assert left[1] == pytest.approx(right[1])
    assert (left + right) / 2 == pytest.approx((500, 500 - 1000 * 0.1 * 22 / 80))
    assert right[0] - left[0] == pytest.approx(250)
    assert crop.turn == pytest.approx(angle)


def test_features_of_the_photo_land_where_the_landmarks_move_to():
    five = turned(FRONTAL, 0.3, 4.0, (60.0, 20.0))
    photo = draw_discs(five, (401, 423), 9)
    # The left eye is 255 there, what is no part of the face 128.
    label_map = np.asarray(photo)[..., 0]
    for make_crop, size in itertools.product((ffhq_crop, eg3d_crop), (400, 200, 120)):
        crop = make_crop(five, size)
        picture, moved = np.asarray(crop.cut_image(photo)), crop.move_points(five)
        for color, point in zip((LEFT_EYE, RIGHT_EYE, NOSE), moved, strict=False):
            np.testing.assert_allclose(center_of(picture, color), point, atol=0.3)
        labels = crop.cut_label_map(label_map)
        assert set(np.unique(labels)) == {0, 128, 255} and labels.shape == (size, size)
        left_eye = np.argwhere(labels == 255)[:, ::-1].mean(axis=0) + 0.5
        np.testing.assert_allclose(left_eye, moved[0], atol=0.4)
        named = crop.move_landmarks(named_landmarks(five))
        assert named["nose"] == pytest.approx(tuple(moved[2]))
    assert crop.move_landmarks({}) == {}


def test_cut_image_matches_an_outside_warp():
    random = np.random.default_rng(0)
    rough = random.uniform(0, 255, (12, 12, 3)).astype(np.uint8)
    photo = Image.fromarray(rough).resize((160, 160), Image.Resampling.BICUBIC)
    crop = Crop(center=(83.0, 77.5), side=64.0, turn=0.35, size=96)
    matrix = np.vstack([crop.photo_from_crop, [0, 0, 1]])
    # skimage counts pixel centres from 0.
    half = SimilarityTransform(translation=(0.5, 0.5))
    inverse = half.inverse.params @ matrix @ half.params
    expected = warp(
        np.asarray(photo, dtype=float), inverse, output_shape=(96, 96), order=3, mode="reflect"
    )
    error = np.abs(np.asarray(crop.cut_image(photo), dtype=float) - expected)
    assert error.mean() < 1 and error.max() < 6


def test_outside_of_the_photo_is_mirrored_and_blurred_and_inside_untouched():
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (100, 100, 3)).astype(np.uint8)
    crop = Crop(center=(50.0, 20.0), side=100.0, turn=0.0, size=100)
    cut = np.asarray(crop.cut_image(Image.fromarray(pixels)))
    np.testing.assert_array_equal(cut[30:], pixels[:70])
    np.testing.assert_allclose(cut[29], pixels[0], atol=12)
    assert cut[:20].std() < 0.5 * pixels.std()
    label_map = random.integers(0, 5, (100, 100)).astype(np.uint8)
    labels = crop.cut_label_map(label_map)
    np.testing.assert_array_equal(labels[30:], label_map[:70])
    np.testing.assert_array_equal(labels[:30], label_map[:30][::-1])


def test_eg3d_crop_undoes_scale_and_shift_of_an_orthographic_face():
    seen = FACE_DECIMETRES[:, :2] * (150, -150) + (321, 234)
    crop = eg3d_crop(seen)
    assert crop.center == pytest.approx((321, 234))
    assert crop.side == pytest.approx(150 * 700 / 300)
    assert crop.turn == 0 and crop.size == 512


def test_eg3d_crop_keeps_size_and_middle_of_a_turning_head():
    points = {str(i): tuple(point) for i, point in enumerate(FACE_DECIMETRES)}
    for yaw in (-0.6, 0.0, 0.4):
        seen = project(points, make_camera(yaw, 0.1, radius=40.0, focal=40.0), 300)
        crop = eg3d_crop(np.array(list(seen.values())))
        assert crop.center == pytest.approx((150, 150), abs=1)
        assert crop.side == pytest.approx(700, rel=0.02)


@pytest.mark.parametrize("make_crop", [ffhq_crop, eg3d_crop])
def test_landmarks_that_cannot_be_aligned_say_why(make_crop):
    with pytest.raises(UserError, match="coincide"):
        make_crop(np.full((5, 2), 30.0))
    with pytest.raises(UserError, match="mirrored face"):
        make_crop(FRONTAL[[1, 0, 2, 4, 3]])


def test_crop_mostly_outside_the_photo_is_an_error():
    with pytest.raises(UserError, match=r"mostly outside the photo"):
        ffhq_crop(FRONTAL).cut_image(Image.new("RGB", (30, 20)))


@pytest.mark.parametrize(
    ("size", "box"), [((7, 4), (1, 0, 5, 4)), ((4, 8), (0, 2, 4, 6)), ((5, 5), (0, 0, 5, 5))]
)
def test_middle_box_is_the_largest_square_of_whole_pixels(size, box):
    assert middle_box(size) == box
