"""Tests of face detectors, with a stand-in for OpenCV."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from mate3d.errors import UserError
from mate3d.photo.detectors import YuNetDetector, main_face


class FakeNetwork:
    """Finds what it is told to, as rows of YuNet in the pixels of its input."""

    faces: np.ndarray | None = None
    seen: list

    def setInputSize(self, size):  # noqa: N802
        self.size = size

    def detect(self, picture):
        assert picture.shape == (self.size[1], self.size[0], 3)
        assert picture.flags.c_contiguous
        FakeNetwork.seen.append(picture)
        return 1, FakeNetwork.faces


class FakeError(Exception):
    pass


def create(model, config, size, min_score):
    if open(model).read() != "yunet":
        raise FakeError("(-2)\n cannot parse")
    return FakeNetwork()


@pytest.fixture
def model(tmp_path, monkeypatch):
    FakeNetwork.faces, FakeNetwork.seen = None, []
    fake = SimpleNamespace(
        FaceDetectorYN=SimpleNamespace(create=create),
        error=FakeError,
        INTER_AREA=3,
        resize=lambda picture, size, interpolation: np.zeros((*size[::-1], 3), np.uint8),
    )
    monkeypatch.setitem(sys.modules, "cv2", fake)
    path = tmp_path / "yunet.onnx"
    path.write_text("yunet")
    return path


def face_row(x: float, y: float, side: float) -> list[float]:
    points = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    return [x, y, side, side, *(v for p in points for v in (x + side * p[0], y + side * p[1])), 0.9]


def test_points_come_in_the_project_s_order(model):
    detector = YuNetDetector(model)
    FakeNetwork.faces = np.array([face_row(10, 20, 100)], np.float32)
    five = detector.detect(np.zeros((200, 150, 3), np.uint8))
    expected = [(40, 60), (80, 60), (60, 80), (45, 100), (75, 100)]
    np.testing.assert_allclose(five, expected, atol=1e-4)


def test_network_gets_blue_first(model):
    image = np.zeros((20, 20, 3), np.uint8)
    image[..., 0] = 200
    YuNetDetector(model).detect(image)
    assert (FakeNetwork.seen[0][..., 2] == 200).all() and (FakeNetwork.seen[0][..., 0] == 0).all()


def test_points_of_a_shrunk_photo_are_pixels_of_the_photo(model):
    detector = YuNetDetector(model, max_side=100)
    FakeNetwork.faces = np.array([face_row(5, 10, 50)], np.float32)
    five = detector.detect(np.zeros((400, 200, 3), np.uint8))
    assert FakeNetwork.seen[0].shape == (100, 50, 3)
    np.testing.assert_allclose(five[0], (80, 120), atol=1e-3)


def test_photo_without_a_face_gives_none(model):
    detector = YuNetDetector(model)
    assert detector.detect(np.zeros((20, 20, 3), np.uint8)) is None
    FakeNetwork.faces = np.zeros((0, 15), np.float32)
    assert detector.detect(np.zeros((20, 20, 3), np.uint8)) is None


def test_main_face_is_large_and_central():
    central, larger_at_the_rim, tiny = [80, 80, 40, 40], [0, 0, 48, 48], [98, 98, 4, 4]
    assert main_face(np.array([tiny, larger_at_the_rim, central]), (200, 200)) == 2
    huge = [0, 0, 120, 120]
    assert main_face(np.array([central, huge]), (200, 200)) == 1


def test_what_is_missing_is_said_in_one_line(model, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="none.onnx"):
        YuNetDetector(tmp_path / "none.onnx")
    model.write_text("something else")
    with pytest.raises(UserError, match="yunet.onnx"):
        YuNetDetector(model)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"pip install mate3d\[photos\]"):
        YuNetDetector(model)
