"""Faults of cameras."""

from functools import partial

import numpy as np

from tests.training.data.doctor.broken import Fault, OpenDataset


def _change(code: str, change, number: int | None = None, **options) -> Fault:
    """Return a fault that changes poses and intrinsics."""
    return Fault(code, lambda data, names: data.change_cameras(names, change), number, **options)


_convert = partial(_change, "camera_convention")


def _diagonal(x: float, y: float, z: float) -> np.ndarray:
    return np.diag([x, y, z, 1.0])


def _within(pose: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Change the axes of world and camera together."""
    return axes @ pose @ np.linalg.inv(axes)


def _lose_numbers(data: OpenDataset, names: list[str]) -> None:
    data.index["labels"][0][1] = data.index["labels"][0][1][:16]
    data.index["labels"][1][1][3] = float("nan")


def _mirror_some(data: OpenDataset, names: list[str]) -> list[str]:
    turned = data.turned_names()[:3]
    data.change_cameras(turned, lambda pose, k: (_within(pose, _MIRROR), k))
    return turned


def _shuffle(data: OpenDataset, names: list[str]) -> list[str]:
    cameras = [camera for _, camera in data.index["labels"]]
    order = np.random.default_rng(2).permutation(len(cameras))
    for entry, other in zip(data.index["labels"], order, strict=True):
        entry[1] = cameras[other]
    return []


def _exchange_one(data: OpenDataset, names: list[str]) -> list[str]:
    labels = data.index["labels"]
    frontal = min(labels, key=lambda entry: abs(entry[1][3]))
    frontal[1] = min(labels, key=lambda entry: entry[1][3])[1]
    return [frontal[0]]


def _make_equal(data: OpenDataset, names: list[str]) -> list[str]:
    for entry in data.index["labels"]:
        entry[1] = data.index["labels"][0][1]
    return []


_Z_UP = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
_ASIDE = np.eye(4)
_ASIDE[[0, 0, 2, 2], [0, 2, 0, 2]] = np.cos(0.5), np.sin(0.5), -np.sin(0.5), np.cos(0.5)

_OPENGL, _TURNED = _diagonal(1, -1, -1), _diagonal(-1, -1, 1)
_FAR, _MILLIMETRES = _diagonal(5, 5, 5), _diagonal(450, 450, 450)
_MIRROR, _FLIP = _diagonal(-1, 1, 1), _diagonal(1, -1, 1)

CAMERA_FAULTS = {
    "too few numbers": Fault("camera_invalid", _lose_numbers, 2),
    "scaled axes": _change("camera_invalid", lambda pose, k: (pose @ _diagonal(2, 2, 2), k), 2),
    "left-handed": _change("camera_invalid", lambda pose, k: (pose @ _MIRROR, k), 1),
    "negative focal": _change("camera_invalid", lambda pose, k: (pose, np.diag([-1, 1, 1]) @ k), 2),
    "one far away": _change("camera_invalid", lambda pose, k: (_within(pose, _FAR), k), 1),
    "columns": _convert(lambda pose, k: (pose.T, k.T)),
    "inverse": _convert(lambda pose, k: (np.linalg.inv(pose), k)),
    "OpenGL": _convert(lambda pose, k: (pose @ _OPENGL, k)),
    "OpenGL in some": _convert(lambda pose, k: (pose @ _OPENGL, k), 3),
    "y down": _convert(lambda pose, k: (_OPENGL @ pose, k)),
    "z up": _convert(lambda pose, k: (_Z_UP @ pose, k)),
    "from behind": _convert(lambda pose, k: (_diagonal(-1, 1, -1) @ pose, k), kind="faces"),
    "upside down": _convert(lambda pose, k: (pose @ _TURNED, k)),
    "upside down in some": _convert(lambda pose, k: (pose @ _TURNED, k), 5),
    "pixels": _convert(lambda pose, k: (pose, np.diag([64, 64, 1]) @ k)),
    "millimetres": _convert(lambda pose, k: (_within(pose, _MILLIMETRES), k)),
    "yaw": _change("camera_mirrored", lambda pose, k: (_within(pose, _MIRROR), k)),
    "yaw in some": Fault("camera_mirrored", _mirror_some, kind="faces"),
    "pitch": _change("camera_mirrored", lambda pose, k: (_within(pose, _FLIP), k)),
    "of other images": Fault("camera_unrelated", _shuffle, remains=("camera_unrelated",)),
    "all the same": Fault("camera_unrelated", _make_equal, remains=("camera_unrelated",)),
    "of one other image": Fault("camera_outlier", _exchange_one, remains=("camera_outlier",)),
    "past the head": _change(
        "camera_outlier", lambda pose, k: (pose @ _ASIDE, k), 2, remains=("camera_outlier",)
    ),
}
