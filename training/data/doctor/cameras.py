"""What is wrong with the cameras by themselves, and what makes them right."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np

from mate3d.camera_checks import (
    angle_off_origin,
    are_inverted,
    axes_error,
    has_last_row,
    has_plausible_intrinsics,
    has_y_up,
    is_in_pixels,
    is_rigid,
    looks_away,
    split_camera,
)
from mate3d.cameras import DEFAULT_FOCAL, DEFAULT_RADIUS
from training.data.doctor.findings import Notes
from training.data.format.index import NUM_CAMERA_VALUES

Cameras = dict[str, np.ndarray]  # of [25] float64
Matrices = tuple[np.ndarray, np.ndarray]  # [4, 4], [3, 3]

_DISTANCE_RANGE = (0.4, 2.5)
_MAX_OFF_TARGET = 0.35
# A direction or a sign needs a few cameras, since a single one may be far from frontal.
_MIN_FOR_WORLD = 5
# Of camera axes, on the right side of a pose.
_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
_HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])


def check_cameras(
    cameras: Mapping[str, tuple[float, ...]], sizes: Mapping[str, tuple[int, int]], notes: Notes
) -> Cameras:
    """Check each camera by itself and all of them for common mistakes.

    Every mistake is taken out before the next is looked for, as its repair does.

    Args:
        cameras: As stored, possibly malformed.
        sizes: Width and height of the images.
        notes: Gets what is wrong.

    Returns:
        The usable cameras with all repairs applied.
    """
    chain = _Chain(cameras, notes)
    wrong = chain.find(lambda pose, k: _is_column_major(pose) or _is_column_major(k))
    chain.convert("stored column by column", wrong, lambda pose, k: (_by_rows(pose), _by_rows(k)))
    # An image that cannot be read most likely has the size of the others.
    usual = Counter(sizes.values()).most_common(1)
    for name in chain.find(lambda pose, k: is_in_pixels(k)) if usual else ():
        divide = partial(_divide, size=sizes.get(name, usual[0][0]))
        chain.convert("intrinsics in pixels", [name], divide)
    chain.drop(_intrinsics_fault)
    chain.drop(_pose_fault)
    everything = list(chain.good)
    if everything and are_inverted(chain.poses()):
        chain.convert("from world to camera", everything, lambda pose, k: (np.linalg.inv(pose), k))
    wrong = chain.find(lambda pose, k: looks_away(pose))
    chain.convert("OpenGL axes", wrong, lambda pose, k: (pose @ _FROM_OPENGL, k))
    rotation, remark = _find_world(chain)
    chain.convert(remark, everything if remark else [], lambda pose, k: (rotation @ pose, k))
    wrong = chain.find(lambda pose, k: has_y_up(pose))
    chain.convert("upside down", wrong, lambda pose, k: (pose @ _HALF_TURN, k))
    far = chain.find(_distance_fault)
    ratio = np.median([_distance_ratio(*split_camera(chain.good[n])) for n in far]) if far else 0
    if len(far) > len(everything) / 2 and ratio > 0:
        scale = np.diag([ratio, ratio, ratio, 1.0])
        unscale = np.linalg.inv(scale)
        chain.convert("other unit of length", far, lambda pose, k: (unscale @ pose @ scale, k))
    chain.drop(_distance_fault)
    _check_together(chain.good, notes)
    return chain.good


class _Chain:
    """Cameras that are repaired from check to check."""

    def __init__(self, cameras: Mapping[str, tuple[float, ...]], notes: Notes):
        self.good: Cameras = {}
        self._notes = notes
        for name in sorted(cameras):
            camera = np.array(cameras[name], dtype=np.float64)
            num_finite = int(np.isfinite(camera).sum())
            if num_finite == len(camera) == NUM_CAMERA_VALUES:
                self.good[name] = camera
            else:
                fault = f"{num_finite} finite numbers of {len(camera)} values"
                notes.add("camera_invalid", name, fault)

    def find(self, is_wrong: Callable[[np.ndarray, np.ndarray], object]) -> list[str]:
        """Return the names of cameras for which a function of pose and intrinsics is true."""
        return [name for name, camera in self.good.items() if is_wrong(*split_camera(camera))]

    def convert(
        self,
        remark: str,
        names: Iterable[str],
        change: Callable[[np.ndarray, np.ndarray], Matrices],
    ) -> None:
        for name in names:
            matrices = change(*split_camera(self.good[name]))
            self.good[name] = np.concatenate([matrix.ravel() for matrix in matrices])
            self._notes.add("camera_convention", name, remark, detail=self.good[name])

    def drop(self, fault_of: Callable[[np.ndarray, np.ndarray], str]) -> None:
        for name in self.find(fault_of):
            fault = fault_of(*split_camera(self.good.pop(name)))
            self._notes.add("camera_invalid", name, fault)

    def poses(self) -> np.ndarray:  # [N, 4, 4]
        return split_camera(np.stack(list(self.good.values())))[0]


def camera_angles(camera: np.ndarray) -> tuple[float, float]:  # [25]
    """Return yaw and pitch of a camera's position, radians."""
    x, y, z = split_camera(camera)[0][:3, 3]
    return float(np.arctan2(x, z)), float(np.arctan2(y, np.hypot(x, z)))


def camera_distance(camera: np.ndarray) -> float:  # [25]
    """Return the distance of a camera from the origin, world units."""
    return float(np.linalg.norm(split_camera(camera)[0][:3, 3]))


def mirror_camera(camera: np.ndarray, axes: str) -> np.ndarray:  # [25] -> [25]
    """Exchange left and right ("x"), above and below ("y"), or both ("xy") in world and camera."""
    flip = np.diag([-1.0 if axis in axes else 1.0 for axis in "xyzw"])
    pose, intrinsics = split_camera(camera)
    return np.concatenate([(flip @ pose @ flip).ravel(), intrinsics.ravel()])


def _is_column_major(matrix: np.ndarray) -> bool:
    """Return whether the last row holds what belongs into the last column."""
    return bool(np.abs(matrix[-1, :-1]).max() > 1e-3 and np.abs(matrix[:-1, -1]).max() < 1e-6)


def _by_rows(matrix: np.ndarray) -> np.ndarray:
    return matrix.T if _is_column_major(matrix) else matrix


def _divide(pose: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> Matrices:
    """Turn intrinsics in pixels into fractions of the image.

    A principal point near the middle of the image means pixels of this image; otherwise they are
    those of another size, whose middle it is.
    """
    center, scale = intrinsics[:2, 2], np.array([*size, 1.0])
    if (center > 1).all() and (np.abs(center / size - 0.5) > 0.2).any():
        scale[:2] = 2 * center
    divided = intrinsics / scale[:, None]
    if (center <= 1).all():
        divided[:2, 2] = center
    return pose, divided


def _intrinsics_fault(pose: np.ndarray, intrinsics: np.ndarray) -> str:
    if has_plausible_intrinsics(intrinsics):
        return ""
    (focal_x, _, center_x), (_, focal_y, center_y), _ = intrinsics
    focal, center = f"{focal_x:.4g}, {focal_y:.4g}", f"{center_x:.4g}, {center_y:.4g}"
    return f"focal lengths {focal}, principal point {center}, last row {intrinsics[2]}"


def _pose_fault(pose: np.ndarray, intrinsics: np.ndarray) -> str:
    if is_rigid(pose):
        return ""
    if not has_last_row(pose):
        return "the last row is not 0, 0, 0, 1"
    mirrors = ", and mirror" if np.linalg.det(pose) < 0 else ""
    return f"axes are {axes_error(pose):.2g} off length 1 and right angles{mirrors}"


def _distance_ratio(pose: np.ndarray, intrinsics: np.ndarray) -> float:
    """Return the distance over what heads of the usual size have at this focal length."""
    usual = DEFAULT_RADIUS * intrinsics[0, 0] / DEFAULT_FOCAL
    return float(np.linalg.norm(pose[:3, 3]) / usual)


def _distance_fault(pose: np.ndarray, intrinsics: np.ndarray) -> str:
    low, high = _DISTANCE_RANGE
    is_usual = low <= _distance_ratio(pose, intrinsics) <= high
    return "" if is_usual else f"{np.linalg.norm(pose[:3, 3]):.3g} units away"


def _find_world(chain: _Chain) -> tuple[np.ndarray, str]:
    """Return the rotation that brings the mean view to the front, and where it is; "" if there."""
    if len(chain.good) < _MIN_FOR_WORLD:
        return np.eye(4), ""
    poses = chain.poses()
    places = poses[:, :3, 3] / np.linalg.norm(poses[:, :3, 3], axis=1, keepdims=True).clip(1e-9)
    means = places.mean(axis=0), -poses[:, :3, 1].mean(axis=0)
    front, up = map(_nearest_axis, means)
    # Views from all around have no front.
    is_clear = min(map(np.linalg.norm, means)) >= 0.6 and front @ up == 0
    if not is_clear or front[2] == 1:
        return np.eye(4), ""
    rotation = np.eye(4)
    rotation[:3, :3] = np.stack([np.cross(up, front), up, front])
    return rotation, f"frontal is {_axis_name(front)}, up is {_axis_name(up)}"


def _nearest_axis(direction: np.ndarray) -> np.ndarray:
    largest = int(np.abs(direction).argmax())
    return np.eye(3)[largest] * np.sign(direction[largest])


def _axis_name(axis: np.ndarray) -> str:
    return f"{'-' if axis.sum() < 0 else '+'}{'xyz'[int(np.abs(axis).argmax())]}"


def _check_together(good: Cameras, notes: Notes) -> None:
    off = {name: float(angle_off_origin(split_camera(c)[0])) for name, c in good.items()}
    for name in sorted(off, key=lambda name: -off[name]):
        if off[name] > _MAX_OFF_TARGET:
            past = f"looks {np.degrees(off[name]):.0f} degrees past the head"
            notes.add("camera_outlier", name, past)
    if len(good) > 1 and np.ptp(np.stack(list(good.values())), axis=0).max() < 1e-6:
        notes.say("camera_unrelated", "all are the same")
