"""What is wrong with the cameras, alone and compared with where the heads look."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from mate3d.camera_checks import (
    AXES_TOLERANCE,
    angle_off_origin,
    are_inverted,
    axes_error,
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
from mate3d.cameras import DEFAULT_FOCAL, DEFAULT_RADIUS
from training.data.doctor.camera_repairs import REPAIRS, is_column_major
from training.data.doctor.findings import Finding, make_finding
from training.data.format.index import NUM_CAMERA_VALUES

Cameras = dict[str, np.ndarray]

_DISTANCE_RANGE = (0.4, 2.5)
_MAX_OFF_TARGET = 0.35
# A direction or a sign needs a few cameras, since a single one may be far from frontal.
_MIN_FOR_WORLD = 5


def check_cameras(
    cameras: Mapping[str, tuple[float, ...]], sizes: Mapping[str, tuple[int, int]]
) -> tuple[list[Finding], Cameras]:
    """Check each camera by itself and all of them for common mistakes.

    Every mistake is taken out before the next is looked for, as its repair would.

    Args:
        cameras: As stored, possibly malformed.
        sizes: Width and height of the images.

    Returns:
        The findings, and the usable cameras with all offered repairs applied.
    """
    findings: list[Finding] = []
    good = _keep_valid(cameras, findings)
    _repair_each(good, "camera_transposed", _is_transposed, findings)
    _repair_pixels(good, sizes, findings)
    _drop_where(good, "camera_intrinsics", _intrinsics_fault, findings)
    _drop_where(good, "camera_not_rotation", _rotation_fault, findings)
    _repair_inverted(good, findings)
    _repair_each(good, "camera_opengl", lambda pose, _: looks_away(pose), findings)
    _repair_world(good, findings)
    _repair_each(good, "camera_up_down", lambda pose, _: has_y_up(pose), findings)
    _repair_distance(good, findings)
    _check_together(good, findings)
    return findings, good


def camera_angles(camera: np.ndarray) -> tuple[float, float]:  # [25]
    """Return yaw and pitch of a camera's position, radians."""
    x, y, z = split_camera(camera)[0][:3, 3]
    return float(np.arctan2(x, z)), float(np.arctan2(y, np.hypot(x, z)))


def camera_distance(camera: np.ndarray) -> float:  # [25]
    """Return the distance of a camera from the origin, world units."""
    return float(np.linalg.norm(split_camera(camera)[0][:3, 3]))


def _keep_valid(cameras: Mapping[str, tuple[float, ...]], findings: list[Finding]) -> Cameras:
    remarks, good = {}, {}
    for name, values in cameras.items():
        num_finite = int(np.isfinite(values).sum()) if values else 0
        if len(values) != NUM_CAMERA_VALUES or num_finite != NUM_CAMERA_VALUES:
            remarks[name] = f"{num_finite} finite numbers of {len(values)} values"
        else:
            good[name] = np.array(values, dtype=np.float64)
    if remarks:
        findings.append(make_finding("camera_invalid", sorted(remarks), remarks=remarks))
    return good


def _apply(
    good: Cameras,
    code: str,
    names: Iterable[str],
    findings: list[Finding],
    message: str = "",
    details: Mapping[str, Any] | None = None,
) -> None:
    names = sorted(names)
    if not names:
        return
    for name in names:
        good[name] = REPAIRS[code](good[name], details or {})
    findings.append(make_finding(code, names, message, details=details))


def _repair_each(
    good: Cameras,
    code: str,
    is_wrong: Callable[[np.ndarray, np.ndarray], bool],  # of pose and intrinsics
    findings: list[Finding],
) -> None:
    wrong = [name for name, camera in good.items() if is_wrong(*split_camera(camera))]
    _apply(good, code, wrong, findings, f"{len(wrong)} of {len(good)} cameras")


def _drop_where(
    good: Cameras, code: str, fault_of: Callable[[np.ndarray], str], findings: list[Finding]
) -> None:
    remarks = {name: fault for name, camera in good.items() if (fault := fault_of(camera))}
    for name in remarks:
        del good[name]
    if remarks:
        findings.append(make_finding(code, sorted(remarks), remarks=remarks))


def _is_transposed(pose: np.ndarray, intrinsics: np.ndarray) -> bool:
    return is_column_major(pose) or is_column_major(intrinsics)


def _repair_pixels(
    good: Cameras, sizes: Mapping[str, tuple[int, int]], findings: list[Finding]
) -> None:
    wrong = sorted(n for n, c in good.items() if is_in_pixels(split_camera(c)[1]))
    if not wrong or not sizes:
        return
    # An image that cannot be read most likely has the size of the others.
    (usual, _), *_ = Counter(sizes.values()).most_common(1)
    sizes = {name: sizes.get(name, usual) for name in wrong}
    remarks = {name: f"focal length {good[name][16]:.4g}" for name in wrong}
    for name in wrong:
        good[name] = REPAIRS["camera_pixels"](good[name], {"size": sizes[name]})
    details = {"sizes": sizes}
    findings.append(make_finding("camera_pixels", wrong, details=details, remarks=remarks))


def _intrinsics_fault(camera: np.ndarray) -> str:
    intrinsics = split_camera(camera)[1]
    if has_plausible_intrinsics(intrinsics):
        return ""
    if not has_plausible_focal(intrinsics):
        return f"focal lengths {intrinsics[0, 0]:.4g}, {intrinsics[1, 1]:.4g}"
    if not has_plausible_center(intrinsics):
        return f"principal point {intrinsics[0, 2]:.4g}, {intrinsics[1, 2]:.4g}"
    return "the last row is not 0, 0, 1"


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


def _repair_inverted(good: Cameras, findings: list[Finding]) -> None:
    if good and are_inverted(_poses(good)):
        _apply(good, "camera_inverted", list(good), findings)


def _poses(good: Cameras) -> np.ndarray:  # [N, 4, 4]
    return split_camera(np.stack(list(good.values())))[0]


def _repair_world(good: Cameras, findings: list[Finding]) -> None:
    """Find the rotation of the world that brings the mean view to the front, if one is needed."""
    if len(good) < _MIN_FOR_WORLD:
        return
    poses = _poses(good)
    places = poses[:, :3, 3] / np.linalg.norm(poses[:, :3, 3], axis=1, keepdims=True).clip(1e-9)
    front, up = places.mean(axis=0), -poses[:, :3, 1].mean(axis=0)
    if np.linalg.norm(front) < 0.6 or np.linalg.norm(up) < 0.6:
        return  # Views from all around have no front.
    front, up = _nearest_axis(front), _nearest_axis(up)
    if front @ up != 0 or front[2] == 1:
        return
    rotation = np.stack([np.cross(up, front), up, front])
    message = f"the heads look to {_axis_name(front)}, up is {_axis_name(up)}"
    details = {"rotation": rotation.tolist()}
    _apply(good, "camera_world_axes", list(good), findings, message, details)


def _nearest_axis(direction: np.ndarray) -> np.ndarray:
    axis = np.zeros(3)
    largest = int(np.abs(direction).argmax())
    axis[largest] = np.sign(direction[largest])
    return axis


def _axis_name(axis: np.ndarray) -> str:
    largest = int(np.abs(axis).argmax())
    return f"{'-' if axis[largest] < 0 else '+'}{'xyz'[largest]}"


def _repair_distance(good: Cameras, findings: list[Finding]) -> None:
    ratios = {
        name: camera_distance(camera) / (DEFAULT_RADIUS * camera[16] / DEFAULT_FOCAL)
        for name, camera in good.items()
    }
    low, high = _DISTANCE_RANGE
    wrong = [name for name, ratio in ratios.items() if not low <= ratio <= high]
    remarks = {name: f"{camera_distance(good[name]):.3g} units away" for name in wrong}
    if not wrong:
        return
    details: dict[str, Any] = {}
    usual = float(np.median([ratios[name] for name in wrong]))
    if len(wrong) > len(good) / 2 and usual > 0:
        details["factor"] = 1 / usual
        for name in wrong:
            good[name] = REPAIRS["camera_distance"](good[name], details)
    findings.append(
        make_finding("camera_distance", sorted(wrong), details=details, remarks=remarks)
    )


def _check_together(good: Cameras, findings: list[Finding]) -> None:
    off = {name: float(angle_off_origin(split_camera(c)[0])) for name, c in good.items()}
    past = sorted((n for n in off if off[n] > _MAX_OFF_TARGET), key=lambda n: -off[n])
    if past:
        remarks = {n: f"{np.degrees(off[n]):.0f} degrees past the head" for n in past}
        findings.append(make_finding("camera_off_target", past, remarks=remarks))
    if len(good) > 1:
        values = np.stack(list(good.values()))
        if np.ptp(values, axis=0).max() < 1e-6:
            findings.append(make_finding("camera_identical", sorted(good)))
