"""Consistency of cameras with heads: the offset of the nose from the eyes reveals the view."""

from collections.abc import Mapping

import numpy as np

from training.data.doctor.cameras import Cameras, camera_angles
from training.data.doctor.findings import Notes

_MIN_SAMPLES = 8
_MIN_FOR_UNRELATED = 16
# Two images are compared if their cameras' sines differ by at least this.
_MIN_DIFFERENCE = 0.12
_MIN_PAIRS = 12
_MAX_PAIRS = 40_000
# Both relative to 0.5, the agreement of unrelated cameras.
_CLEAR = 0.2
_UNCLEAR = 0.1
_OUTLIER_SIGMAS = 6.0
# Noses move by about 0.15 of the image per radian; smaller residuals are due to anatomy.
_MIN_RESIDUAL = 0.04


def check_poses(cameras: Cameras, noses: Mapping[str, tuple[float, float]], notes: Notes) -> None:
    """Compare the cameras with the directions of noses; apply repairs to `cameras`.

    From a camera further right, the nose appears further left of the midpoint of the eyes; from
    further up, lower. Over a dataset the two must correlate.

    Args:
        cameras: Usable cameras; repaired in place.
        noses: How far noses are to the right of and below the midpoint of the eyes.
    """
    names = [name for name in cameras if name in noses]
    if len(names) < _MIN_SAMPLES:
        return
    turn, tilt = np.array([noses[name] for name in names]).T
    yaws, pitches = np.sin(camera_angles(np.stack([cameras[name] for name in names])))
    sides, heights = _agreement(yaws, -turn), _agreement(pitches, tilt)
    share = f"{100 * sides:.0f} % of image pairs agree with their cameras"
    # Noses differ more in length than in direction, so a weak tilt is not significant.
    if abs(sides - 0.5) < _UNCLEAR and len(names) >= _MIN_FOR_UNRELATED:
        notes.say("camera_unrelated", share)
        return
    wrong_sides = set(cameras) if sides <= 0.5 - _CLEAR else set()
    wrong_heights = set(cameras) if heights <= 0.5 - _CLEAR else set()
    if abs(sides - 0.5) >= _CLEAR:
        is_mirrored, is_outlier = _find_outliers(yaws * np.sign(sides - 0.5), turn)
        # A camera mirrored twice, with all others and individually, was right from the start.
        wrong_sides ^= {names[i] for i in np.flatnonzero(is_mirrored)}
        for i in np.flatnonzero(is_outlier):
            notes.add("camera_outlier", names[i], "the nose points elsewhere")
    for axis, wrong, remark in ((0, wrong_sides, "side"), (1, wrong_heights, "height")):
        for name in sorted(wrong):
            cameras[name] = _mirror(cameras[name], axis)
            notes.add("camera_mirrored", name, f"wrong {remark}", detail=cameras[name])


def _mirror(camera: np.ndarray, axis: int) -> np.ndarray:  # [25] -> [25]
    """Swap left and right (axis 0) or up and down (axis 1) in world and camera."""
    signs = np.ones((4, 4))
    signs[axis] *= -1
    signs[:, axis] *= -1
    return np.concatenate([camera[:16] * signs.ravel(), camera[16:]])


def _agreement(
    sines: np.ndarray,  # [N]
    offset: np.ndarray,  # [N]
) -> float:
    """Return the fraction of pairs in which both increase, 0..1; NaN if there are too few pairs."""
    slopes = _pairwise_slopes(sines, offset)
    return float((slopes > 0).mean()) if len(slopes) >= _MIN_PAIRS else np.nan


def _pairwise_slopes(
    x: np.ndarray,  # [N]
    y: np.ndarray,  # [N]
) -> np.ndarray:  # [P]
    """Return the slopes between pairs of points that are far enough apart in x.

    Their median (Theil 1950, Sen 1968) is a slope that is robust to a minority of outliers.
    """
    first, second = np.triu_indices(min(len(x), 280), 1)
    if len(x) > 280:
        first, second = np.random.default_rng(0).integers(0, len(x), (2, _MAX_PAIRS))
    is_apart = np.abs(x[first] - x[second]) > _MIN_DIFFERENCE
    first, second = first[is_apart], second[is_apart]
    return (y[first] - y[second]) / (x[first] - x[second])


def _find_outliers(
    sines: np.ndarray,  # [N]
    turn: np.ndarray,  # [N]
) -> tuple[np.ndarray, np.ndarray]:  # [N] bool, [N] bool
    """Find individual cameras on the wrong side, and those that fit neither side."""
    slope = float(np.median(_pairwise_slopes(sines, turn)))
    intercept = float(np.median(turn - slope * sines))
    residual = np.abs(turn - intercept - slope * sines)
    mirrored_residual = np.abs(turn - intercept + slope * sines)
    spread = 1.4826 * float(np.median(residual))
    limit = max(_OUTLIER_SIGMAS * spread, _MIN_RESIDUAL)
    is_mirrored = (residual > limit) & (mirrored_residual < 0.5 * limit)
    return is_mirrored, (residual > limit) & ~is_mirrored
