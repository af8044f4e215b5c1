"""Camera files: forms, axes told by geometry, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch

from mate3d.camera_checks import exchange_axes
from mate3d.cameras import make_camera
from mate3d.errors import UserError
from training.data.preparation.side_files import camera_conventions, read_cameras


@pytest.fixture(scope="module")
def cameras() -> np.ndarray:
    """Cameras all around the front of a head, up to profiles and steep views."""
    rng = np.random.default_rng(0)
    yaw = torch.as_tensor(rng.uniform(-1.4, 1.4, 40))
    pitch = torch.as_tensor(rng.uniform(-0.8, 0.8, 40))
    return make_camera(yaw, pitch).double().numpy()


def _names(count: int) -> list[str]:
    return [f"00000/img{i:08d}.png" for i in range(count)]


def _write(path, cameras, *, as_list: bool = True):
    pairs = list(zip(_names(len(cameras)), cameras.tolist(), strict=True))
    path.write_text(json.dumps({"labels": pairs} if as_list else dict(pairs)))
    return path


@pytest.mark.parametrize("as_list", [True, False])
@pytest.mark.parametrize("axes", ["opencv", "opengl"])
def test_both_forms_and_both_axes_are_read(tmp_path, cameras, as_list, axes):
    """IDE-3D negates the entries 1, 2, 5, 6, 9 and 10 of EG3D's cameras."""
    signs = np.ones(25)
    signs[[1, 2, 5, 6, 9, 10]] = -1 if axes == "opengl" else 1
    file = read_cameras(_write(tmp_path / "dataset.json", cameras * signs, as_list=as_list))
    assert ("OpenGL" in file.note) == (axes == "opengl") and not file.problems
    assert list(file.values) == _names(40)
    np.testing.assert_array_equal(np.array(list(file.values.values())), cameras)


def test_the_axes_of_a_single_camera_can_be_told(cameras):
    assert (camera_conventions(cameras) == "opencv").all()
    assert (camera_conventions(exchange_axes(cameras)) == "opengl").all()
    np.testing.assert_array_equal(exchange_axes(exchange_axes(cameras)), cameras)


def test_rolled_cameras_keep_their_axes(cameras):
    roll = math.radians(60)
    turn = np.eye(4)
    turn[:2, :2] = [[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]]
    rolled = cameras.copy()
    near_level = np.abs(cameras[:, 7]) < 1.0
    rolled[:, :16] = (cameras[:, :16].reshape(-1, 4, 4) @ turn).reshape(-1, 16)
    assert (camera_conventions(rolled[near_level]) == "opencv").all()


def test_unusable_cameras_have_a_reason_each(tmp_path, cameras):
    labels = dict(zip(_names(40), cameras.tolist(), strict=True))
    labels |= {"short.png": [1.0] * 24, "nan.png": [math.nan] * 25, "text.png": "none"}
    labels |= {"scaled.png": (cameras[0] * 2).tolist(), "mirrored.png": None, "zero.png": [0] * 25}
    mirrored = cameras[0].copy()
    mirrored[[0, 4, 8]] *= -1
    labels["mirrored.png"] = mirrored.tolist()
    labels["pixels.png"] = _in_pixels(cameras[:1])[0].tolist()
    labels["focal.png"] = [*cameras[0, :16].tolist(), -4.0, 0, 0.5, 0, -4.0, 0.5, 0, 0, 1]
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": list(labels.items())}))
    file = read_cameras(path)
    assert len(file.values) == 40
    for name in ("short.png", "nan.png", "text.png"):
        assert file.problems[name] == "a camera is 25 finite numbers"
    for name in ("scaled.png", "mirrored.png", "zero.png"):
        assert file.problems[name] == "its first 16 numbers are no camera-to-world matrix"
    for name in ("pixels.png", "focal.png"):
        assert file.problems[name] == "its last 9 numbers are no plausible intrinsics"


@pytest.mark.parametrize("flip", [False, True])
def test_a_few_cameras_that_look_elsewhere_are_listed(tmp_path, cameras, flip):
    many = np.concatenate([cameras, cameras, cameras])
    many[7] = exchange_axes(many[7:8])[0]
    file = read_cameras(_write(tmp_path / "c.json", exchange_axes(many) if flip else many))
    assert ("OpenGL" in file.note) == flip
    name = _names(8)[7]
    assert file.problems == {name: "it looks away from the head, or is upside down"}
    assert len(file.values) == 119 and name not in file.values
    assert file.values[_names(9)[8]] == tuple(cameras[8])


def _in_pixels(cameras):
    pixels = cameras.copy()
    pixels[:, 16:22] *= 512
    return pixels


def _world_to_camera(cameras):
    inverted = cameras.copy()
    inverted[:, :16] = np.linalg.inv(cameras[:, :16].reshape(-1, 4, 4)).reshape(-1, 16)
    return inverted


def _mixed(cameras):
    return np.concatenate([cameras[:20], exchange_axes(cameras[20:])])


def _upside_down(cameras):
    turned = cameras.copy()
    turned[:, [0, 1, 4, 5, 8, 9]] *= -1
    return turned


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_in_pixels, r"in pixels \(focal length 2183.53, principal point 256\); divide"),
        (_world_to_camera, "world-to-camera matrices"),
        (_mixed, "of 40 cameras 20 look at the origin with OpenCV's axes and 20 with OpenGL's"),
        (_upside_down, "of 40 cameras 0 look at the origin"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, cameras, change, message):
    path = _write(tmp_path / "dataset.json", change(cameras))
    with pytest.raises(UserError, match=message):
        read_cameras(path)
