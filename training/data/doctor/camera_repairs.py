"""How wrong cameras become right ones; the checks and the fixes use the same functions."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mate3d.camera_checks import exchange_axes, split_camera

Repair = Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]

_FLIP_X = np.diag([-1.0, 1.0, 1.0, 1.0])
_FLIP_Y = np.diag([1.0, -1.0, 1.0, 1.0])


def _join(pose: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    return np.concatenate([pose.ravel(), intrinsics.ravel()])


def transpose(camera: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:  # [25] -> [25]
    """Transpose those of the two matrices that are stored column by column."""
    pose, intrinsics = split_camera(camera)
    return _join(
        pose.T if is_column_major(pose) else pose,
        intrinsics.T if is_column_major(intrinsics) else intrinsics,
    )


def is_column_major(matrix: np.ndarray) -> bool:
    """Return whether the last row holds what belongs into the last column."""
    return bool(np.abs(matrix[-1, :-1]).max() > 1e-3 and np.abs(matrix[:-1, -1]).max() < 1e-6)


def divide_by_size(camera: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:  # [25] -> [25]
    """Turn intrinsics in pixels into fractions of the image.

    A principal point near the middle of the image means pixels of this image; otherwise they are
    those of another size, whose middle it is.
    """
    pose, intrinsics = split_camera(camera)
    size = np.array(details["size"], dtype=np.float64)
    center = intrinsics[:2, 2]
    if (center > 1).all() and (np.abs(center / size - 0.5) > 0.2).any():
        size = 2 * center
    scaled = intrinsics.copy()
    scaled[:2] /= size[:, None]
    if (center <= 1).all():
        scaled[:2, 2] = center
    return _join(pose, scaled)


def invert(camera: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:  # [25] -> [25]
    """Turn a world-to-camera matrix into the camera-to-world matrix."""
    pose, intrinsics = split_camera(camera)
    return _join(np.linalg.inv(pose), intrinsics)


def opengl_to_opencv(camera: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:  # [25] -> [25]
    """Turn the axes right, up, backward into right, down, forward."""
    return exchange_axes(camera)


def rotate_world(camera: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:  # [25] -> [25]
    """Rotate the world so that frontal is +z and up is +y."""
    pose, intrinsics = split_camera(camera)
    rotation = np.eye(4)
    rotation[:3, :3] = details["rotation"]
    return _join(rotation @ pose, intrinsics)


def turn_around_view(camera: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:  # [25] -> [25]
    """Turn a camera that is upside down by 180 degrees about its view."""
    pose, intrinsics = split_camera(camera)
    return _join(pose @ np.diag([-1.0, -1.0, 1.0, 1.0]), intrinsics)


def mirror(camera: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:  # [25] -> [25]
    """Exchange left and right in world and camera."""
    pose, intrinsics = split_camera(camera)
    return _join(_FLIP_X @ pose @ _FLIP_X, intrinsics)


def mirror_vertically(camera: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:  # [25] -> [25]
    """Exchange above and below in world and camera."""
    pose, intrinsics = split_camera(camera)
    return _join(_FLIP_Y @ pose @ _FLIP_Y, intrinsics)


def scale_distance(camera: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:  # [25] -> [25]
    """Change the unit of length."""
    pose, intrinsics = split_camera(camera)
    scaled = pose.copy()
    scaled[:3, 3] *= details["factor"]
    return _join(scaled, intrinsics)


# In the order in which they are found and applied.
REPAIRS: dict[str, Repair] = {
    "camera_transposed": transpose,
    "camera_pixels": divide_by_size,
    "camera_inverted": invert,
    "camera_opengl": opengl_to_opencv,
    "camera_world_axes": rotate_world,
    "camera_up_down": turn_around_view,
    "camera_distance": scale_distance,
    "camera_mirrored": mirror,
    "camera_pitch_mirrored": mirror_vertically,
}
