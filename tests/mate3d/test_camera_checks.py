"""What the numbers of cameras tell."""

import numpy as np
import pytest
import torch

from mate3d.camera_checks import (
    angle_off_origin,
    are_inverted,
    axes_error,
    exchange_axes,
    has_last_row,
    has_plausible_center,
    has_plausible_focal,
    has_plausible_intrinsics,
    has_y_up,
    is_in_pixels,
    is_rigid,
    looks_away,
    split_camera,
)
from mate3d.cameras import make_camera


@pytest.fixture(scope="module")
def cameras() -> np.ndarray:  # [3, 4, 25]
    yaw, pitch = torch.meshgrid(
        torch.tensor([-1.2, 0.1, 1.0]), torch.tensor([-0.6, -0.2, 0.3, 0.7]), indexing="ij"
    )
    return make_camera(yaw.ravel(), pitch.ravel()).double().numpy().reshape(3, 4, 25)


def test_the_project_s_cameras_have_no_fault(cameras):
    poses, intrinsics = split_camera(cameras)
    assert poses.shape == (3, 4, 4, 4) and intrinsics.shape == (3, 4, 3, 3)
    for is_good in (is_rigid(poses), has_last_row(poses), has_plausible_intrinsics(intrinsics)):
        assert is_good.shape == (3, 4) and is_good.all()
    assert not (looks_away(poses) | has_y_up(poses) | is_in_pixels(intrinsics)).any()
    assert angle_off_origin(poses).max() < 1e-3 and axes_error(poses).max() < 1e-6


@pytest.mark.parametrize(
    "change",
    [
        np.diag([1.01, 1, 1, 1]),
        np.diag([-1, 1, 1, 1.0]),
        np.diag([1, 1, 1, 1.01]),
        np.zeros((4, 4)),
    ],
    ids=["scaled", "mirrored", "last row", "zero"],
)
def test_what_is_no_rotation_and_shift_is_not_rigid(cameras, change):
    assert not is_rigid(split_camera(cameras)[0] @ change).any()


@pytest.mark.parametrize("scale", [64, 512])
def test_intrinsics_in_pixels_are_told(cameras, scale):
    intrinsics = np.diag([scale, scale, 1.0]) @ split_camera(cameras)[1]
    assert is_in_pixels(intrinsics).all()
    assert not has_plausible_focal(intrinsics).any()
    assert not has_plausible_center(intrinsics).any()
    assert not has_plausible_intrinsics(intrinsics).any()


def test_axes_of_opengl_look_away_and_up_and_exchange_back(cameras):
    exchanged = exchange_axes(cameras)
    poses = split_camera(exchanged)[0]
    np.testing.assert_array_equal(poses, split_camera(cameras)[0] @ np.diag([1, -1, -1, 1]))
    assert (looks_away(poses) & has_y_up(poses)).all()
    np.testing.assert_array_equal(exchange_axes(exchanged), cameras)


def test_inverted_matrices_are_told_even_if_they_look_a_little_past_the_origin(cameras):
    poses = split_camera(cameras)[0].reshape(-1, 4, 4)
    assert are_inverted(np.linalg.inv(poses)) and not are_inverted(poses)
    beside = make_camera(torch.linspace(-1, 1, 9), target=(0.0, 0.0, 0.2)).double().numpy()
    assert are_inverted(np.linalg.inv(split_camera(beside)[0]))
    assert not are_inverted(np.linalg.inv(poses[:4]))
    assert not are_inverted(np.repeat(poses[:1], 9, axis=0))
