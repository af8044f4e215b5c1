"""Named landmarks of heads in images.

Points are pixels (x, y), x right, y down, with pixel centres at +0.5. "left" and "right" are sides
of the image in a frontal portrait, so `left_eye` is the person's right eye.
"""

from collections.abc import Mapping

import numpy as np

Point = tuple[float, float]
Landmarks = Mapping[str, Point]

# The five landmarks found by detectors, in the order of every [5, 2] array.
FIVE_POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")


def five_landmarks(landmarks: Landmarks) -> np.ndarray | None:  # [5, 2] float64
    """Return the five points of a face in their fixed order, or None if any is missing."""
    if not all(name in landmarks for name in FIVE_POINTS):
        return None
    return np.array([landmarks[name] for name in FIVE_POINTS], dtype=np.float64)


def named_landmarks(
    five: np.ndarray,  # [5, 2]
) -> dict[str, Point]:
    """Return five points of a face by name; the inverse of `five_landmarks`."""
    assert np.shape(five) == (5, 2), np.shape(five)
    return {name: (float(x), float(y)) for name, (x, y) in zip(FIVE_POINTS, five, strict=True)}
