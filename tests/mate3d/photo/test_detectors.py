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
        resize=lambda picture, size, interpolation: np.tile(picture[0, 0], (*size[::-1], 1)),
    )
    monkeypatch.setitem(sys.modules, "cv2", fake)
    path = tmp_path / "yunet.onnx"
    path.write_text("yunet")
    return path


def face_row(x: float, y: float, side: float) -> list[float]:
    points = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    return [x, y, side, side, *(v for p in points for v in (x + side * p[0], y + side * p[1])), 0.9]


@pytest.mark.parametrize(("max_side", "shrink"), [(1000, 1), (100, 4)])
def test_points_are_pixels_of_the_photo_in_the_project_s_order(model, max_side, shrink):
    detector = YuNetDetector(model, max_side=max_side)
    FakeNetwork.faces = np.array([face_row(20 / shrink, 40 / shrink, 100 / shrink)], np.float32)
    photo = np.zeros((400, 200, 3), np.uint8)
    photo[..., 0] = 200
    five = detector.detect(photo)
    expected = [(50, 80), (90, 80), (70, 100), (55, 120), (85, 120)]
    np.testing.assert_allclose(five, expected, atol=1e-3)
    (seen,) = FakeNetwork.seen
    assert seen.shape == (400 // shrink, 200 // shrink, 3)
    # The network wants blue first.
    assert (seen[..., 2] == 200).all() and (seen[..., 0] == 0).all()


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
    with pytest.raises(UserError, match=r"pip install -e '.\[photos\]'"):
        YuNetDetector(model)
