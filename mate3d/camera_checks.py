"""Checks of imported camera labels: rigidity, axis convention, inverted poses, units.

A camera label is 25 numbers: the camera-to-world matrix, then the intrinsics, both row-major.
Leading dimensions are arbitrary.
"""

import numpy as np

# Maximum error of a dot product of two axes, which should be 0 or 1.
_AXES_TOLERANCE = 1e-2
_ROW_TOLERANCE = 1e-3
# For intrinsics divided by the image size.
_FOCAL_RANGE = (0.2, 20.0)
_MAX_CENTER = 2.0
_MAX_OFF_CENTER = 0.25
# Detecting inverted matrices takes several cameras, since a single one may look anywhere.
_MIN_INVERTED = 5
# Entries of the camera's y and z axes.
_OPENGL_ENTRIES = [1, 2, 5, 6, 9, 10]


def split_camera(
    cameras: np.ndarray,  # [..., 25]
) -> tuple[np.ndarray, np.ndarray]:  # [..., 4, 4], [..., 3, 3]
    """Return camera-to-world matrices and intrinsics."""
    shape = cameras.shape[:-1]
    return cameras[..., :16].reshape(*shape, 4, 4), cameras[..., 16:].reshape(*shape, 3, 3)


def _has_last_row(
    matrices: np.ndarray,  # [..., N, N]
) -> np.ndarray:  # [...] bool
    """Return whether the last row is 0, ..., 0, 1."""
    expected = np.eye(matrices.shape[-1])[-1]
    return np.abs(matrices[..., -1, :] - expected).max(axis=-1) < _ROW_TOLERANCE


def is_rigid(
    poses: np.ndarray,  # [..., 4, 4]
) -> np.ndarray:  # [...] bool
    """Return whether matrices are a rotation and a translation."""
    rotations = poses[..., :3, :3]
    products = np.swapaxes(rotations, -1, -2) @ rotations
    are_orthonormal = np.abs(products - np.eye(3)).max(axis=(-2, -1)) < _AXES_TOLERANCE
    return _has_last_row(poses) & are_orthonormal & (np.linalg.det(rotations) > 0)


def is_in_pixels(
    intrinsics: np.ndarray,  # [..., 3, 3]
) -> np.ndarray:  # [...] bool
    """Return whether intrinsics are in pixels instead of divided by the image size."""
    return (intrinsics[..., 0, 0] > _FOCAL_RANGE[1]) | (intrinsics[..., 0, 2] > _MAX_CENTER)


def has_plausible_intrinsics(
    intrinsics: np.ndarray,  # [..., 3, 3]
) -> np.ndarray:  # [...] bool
    """Return whether intrinsics are divided by the image size and plausible for portraits."""
    focal = np.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], axis=-1)
    is_plausible = ((focal > _FOCAL_RANGE[0]) & (focal <= _FOCAL_RANGE[1])).all(axis=-1)
    is_centered = (np.abs(intrinsics[..., :2, 2] - 0.5) <= _MAX_OFF_CENTER).all(axis=-1)
    return is_plausible & is_centered & _has_last_row(intrinsics)


def angle_off_origin(
    poses: np.ndarray,  # [..., 4, 4]
) -> np.ndarray:  # [...] radians, 0..pi/2
    """Return the angle between the viewing axis, in either direction, and the world origin."""
    positions = poses[..., :3, 3]
    along = np.abs((positions * poses[..., :3, 2]).sum(axis=-1))
    cosine = along / np.linalg.norm(positions, axis=-1).clip(1e-9)
    return np.arccos(cosine.clip(max=1.0))


def are_inverted(
    poses: np.ndarray,  # [N, 4, 4]
) -> bool:
    """Return whether poses are world-to-camera.

    Then all positions coincide, and the inverted matrices look at the origin.
    """
    if len(poses) < _MIN_INVERTED:
        return False
    positions = poses[:, :3, 3]
    is_one_place = positions.std(axis=0).max() < 0.05 * np.linalg.norm(positions.mean(axis=0))
    as_stored = np.median(angle_off_origin(poses))
    inverted = np.median(angle_off_origin(np.linalg.inv(poses)))
    return bool(is_one_place and as_stored > 0.1 and inverted < 0.25 * as_stored)


def looks_away(
    poses: np.ndarray,  # [..., 4, 4]
) -> np.ndarray:  # [...] bool
    """Return whether the z axis points away from the origin, as with OpenGL axes."""
    return (poses[..., :3, 2] * poses[..., :3, 3]).sum(axis=-1) > 0


def has_y_up(
    poses: np.ndarray,  # [..., 4, 4]
) -> np.ndarray:  # [...] bool
    """Return whether the y axis points up, as with OpenGL axes; OpenCV's points down."""
    return poses[..., 1, 1] > 0


def exchange_axes(
    cameras: np.ndarray,  # [..., 25]
) -> np.ndarray:  # [..., 25]
    """Convert between OpenCV axes (right, down, forward) and OpenGL axes (right, up, backward)."""
    exchanged = cameras.copy()
    exchanged[..., _OPENGL_ENTRIES] *= -1
    return exchanged
