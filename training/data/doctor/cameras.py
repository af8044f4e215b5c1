"""What is wrong with the cameras by themselves, and what makes them right."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np

from mate3d.camera_checks import (
    AXES_TOLERANCE,
    angle_off_origin,
    are_inverted,
    axes_error,
    exchange_axes,
    has_last_row,
    has_plausible_intrinsics,
    has_y_up,
    is_in_pixels,
    is_rigid,
    looks_away,
    split_camera,
)
from mate3d.cameras import DEFAULT_FOCAL, DEFAULT_RADIUS
from training.data.doctor.findings import LEAVES_OUT, Kind, Notes
from training.data.format.index import NUM_CAMERA_VALUES

CAMERA_KINDS = (
    Kind(
        "camera_invalid",
        "error",
        "numbers that can be no camera",
        "A camera is 25 finite numbers: a camera-to-world matrix whose axes are of length 1 and at "
        "right angles, and intrinsics; it is about 2.7 units away from the head.",
        LEAVES_OUT,
    ),
    Kind(
        "camera_convention",
        "error",
        "cameras in another convention",
        "Matrices lead from the camera to the world, row by row; axes are OpenCV's; frontal "
        "portraits are seen from +z with y up; intrinsics are divided by the image size; the head "
        "is about half a unit large.",
        "transposes, inverts, turns or scales the cameras",
    ),
    Kind(
        "camera_mirrored",
        "error",
        "cameras on the wrong side, or at the wrong height",
        "Where the nose points in the mask, the camera must be on the other side; here the sign of "
        "the yaw or the pitch is exchanged.",
        "mirrors the cameras",
    ),
    Kind(
        "camera_unrelated",
        "error",
        "cameras do not fit the images",
        "All are the same, or have nothing to do with where the noses point; usually cameras are "
        "placeholders, or were assigned to images by order and not by name.",
    ),
    Kind(
        "camera_outlier",
        "warning",
        "cameras that do not fit their image",
        "The nose points elsewhere than the camera says, compared with the other images, or the "
        "camera looks past the head.",
    ),
)

Cameras = dict[str, np.ndarray]  # of [25] float64
Repair = Callable[[np.ndarray], np.ndarray]  # [25] -> [25]

_DISTANCE_RANGE = (0.4, 2.5)
_MAX_OFF_TARGET = 0.35
# A direction or a sign needs a few cameras, since a single one may be far from frontal.
_MIN_FOR_WORLD = 5
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
    good = {name: np.array(cameras[name], dtype=np.float64) for name in sorted(cameras)}
    _drop(good, _number_fault, notes)
    wrong = _where(good, lambda pose, k: is_column_major(pose) or is_column_major(k))
    _convert(good, wrong, "stored column by column", _transpose, notes)
    # An image that cannot be read most likely has the size of the others.
    usual = Counter(sizes.values()).most_common(1)
    for name in _where(good, lambda _, intrinsics: is_in_pixels(intrinsics)) if usual else ():
        divide = partial(_divide, size=sizes.get(name, usual[0][0]))
        _convert(good, [name], "intrinsics in pixels", divide, notes)
    _drop(good, _intrinsics_fault, notes)
    _drop(good, _rotation_fault, notes)
    if good and are_inverted(_poses(good)):
        invert = partial(_change_pose, change=np.linalg.inv)
        _convert(good, list(good), "from world to camera", invert, notes)
    wrong = _where(good, lambda pose, _: looks_away(pose))
    _convert(good, wrong, "OpenGL axes", exchange_axes, notes)
    rotation, remark = _find_world(good)
    turn_world = partial(_change_pose, change=lambda pose: rotation @ pose)
    _convert(good, list(good) if remark else [], remark, turn_world, notes)
    wrong = _where(good, lambda pose, _: has_y_up(pose))
    turn = partial(_change_pose, change=lambda pose: pose @ _HALF_TURN)
    _convert(good, wrong, "upside down", turn, notes)
    _check_distances(good, notes)
    _check_together(good, notes)
    return good


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
    return _change_pose(camera, lambda pose: flip @ pose @ flip)


def is_column_major(matrix: np.ndarray) -> bool:
    """Return whether the last row holds what belongs into the last column."""
    return bool(np.abs(matrix[-1, :-1]).max() > 1e-3 and np.abs(matrix[:-1, -1]).max() < 1e-6)


def _where(good: Cameras, is_wrong: Callable[[np.ndarray, np.ndarray], bool]) -> list[str]:
    return [name for name, camera in good.items() if is_wrong(*split_camera(camera))]


def _convert(
    good: Cameras, names: Iterable[str], remark: str, repair: Repair, notes: Notes
) -> None:
    for name in names:
        good[name] = repair(good[name])
        notes.add("camera_convention", name, remark, detail=good[name])


def _drop(good: Cameras, fault_of: Callable[[np.ndarray], str], notes: Notes) -> None:
    for name, camera in list(good.items()):
        if fault := fault_of(camera):
            notes.add("camera_invalid", name, fault)
            del good[name]


def _poses(good: Cameras) -> np.ndarray:  # [N, 4, 4]
    return split_camera(np.stack(list(good.values())))[0]


def _change_pose(camera: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    pose, intrinsics = split_camera(camera)
    return np.concatenate([change(pose).ravel(), intrinsics.ravel()])


def _transpose(camera: np.ndarray) -> np.ndarray:
    matrices = [m.T if is_column_major(m) else m for m in split_camera(camera)]
    return np.concatenate([matrix.ravel() for matrix in matrices])


def _divide(camera: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Turn intrinsics in pixels into fractions of the image.

    A principal point near the middle of the image means pixels of this image; otherwise they are
    those of another size, whose middle it is.
    """
    intrinsics = split_camera(camera.copy())[1]
    center, scale = intrinsics[:2, 2].copy(), np.array(size, dtype=np.float64)
    if (center > 1).all() and (np.abs(center / scale - 0.5) > 0.2).any():
        scale = 2 * center
    intrinsics[:2] /= scale[:, None]
    if (center <= 1).all():
        intrinsics[:2, 2] = center
    return np.concatenate([camera[:16], intrinsics.ravel()])


def _number_fault(camera: np.ndarray) -> str:
    num_finite = int(np.isfinite(camera).sum())
    if camera.shape == (NUM_CAMERA_VALUES,) and num_finite == NUM_CAMERA_VALUES:
        return ""
    return f"{num_finite} finite numbers of {camera.size} values"


def _intrinsics_fault(camera: np.ndarray) -> str:
    intrinsics = split_camera(camera)[1]
    if has_plausible_intrinsics(intrinsics):
        return ""
    (focal_x, _, center_x), (_, focal_y, center_y), _ = intrinsics
    focal, center = f"{focal_x:.4g}, {focal_y:.4g}", f"{center_x:.4g}, {center_y:.4g}"
    return f"focal lengths {focal}, principal point {center}, last row {intrinsics[2]}"


def _rotation_fault(camera: np.ndarray) -> str:
    pose = split_camera(camera)[0]
    if is_rigid(pose):
        return ""
    if not has_last_row(pose):
        return "the last row is not 0, 0, 0, 1"
    error = axes_error(pose)
    if error < AXES_TOLERANCE:
        return "the matrix mirrors"
    return f"axes deviate by {error:.2g} from length 1 and right angles"


def _find_world(good: Cameras) -> tuple[np.ndarray, str]:
    """Return the rotation of the world that brings the mean view to the front, "" if it is there."""
    nothing = np.eye(4), ""
    if len(good) < _MIN_FOR_WORLD:
        return nothing
    poses = _poses(good)
    places = poses[:, :3, 3] / np.linalg.norm(poses[:, :3, 3], axis=1, keepdims=True).clip(1e-9)
    front, up = places.mean(axis=0), -poses[:, :3, 1].mean(axis=0)
    if np.linalg.norm(front) < 0.6 or np.linalg.norm(up) < 0.6:
        return nothing  # Views from all around have no front.
    front, up = _nearest_axis(front), _nearest_axis(up)
    if front @ up != 0 or front[2] == 1:
        return nothing
    rotation = np.eye(4)
    rotation[:3, :3] = np.stack([np.cross(up, front), up, front])
    return rotation, f"frontal is {_axis_name(front)}, up is {_axis_name(up)}"


def _nearest_axis(direction: np.ndarray) -> np.ndarray:
    largest = int(np.abs(direction).argmax())
    return np.eye(3)[largest] * np.sign(direction[largest])


def _axis_name(axis: np.ndarray) -> str:
    return f"{'-' if axis.sum() < 0 else '+'}{'xyz'[int(np.abs(axis).argmax())]}"


def _check_distances(good: Cameras, notes: Notes) -> None:
    def ratio(camera: np.ndarray) -> float:
        return camera_distance(camera) / (DEFAULT_RADIUS * camera[16] / DEFAULT_FOCAL)

    def distance_fault(camera: np.ndarray) -> str:
        low, high = _DISTANCE_RANGE
        is_near = low <= ratio(camera) <= high
        return "" if is_near else f"{camera_distance(camera):.3g} units away"

    wrong = [name for name, camera in good.items() if distance_fault(camera)]
    usual = float(np.median([ratio(good[name]) for name in wrong])) if wrong else 0.0
    if len(wrong) > len(good) / 2 and usual > 0:
        scale = np.array([[1.0, 1.0, 1.0, 1 / usual]] * 3 + [[1.0] * 4])
        rescale = partial(_change_pose, change=lambda pose: scale * pose)
        _convert(good, wrong, "another unit of length", rescale, notes)
    _drop(good, distance_fault, notes)


def _check_together(good: Cameras, notes: Notes) -> None:
    off = {name: float(angle_off_origin(split_camera(c)[0])) for name, c in good.items()}
    for name in sorted(off, key=lambda name: -off[name]):
        if off[name] > _MAX_OFF_TARGET:
            past = f"looks {np.degrees(off[name]):.0f} degrees past the head"
            notes.add("camera_outlier", name, past)
    if len(good) > 1 and np.ptp(np.stack(list(good.values())), axis=0).max() < 1e-6:
        notes.say("camera_unrelated", "all are the same")
