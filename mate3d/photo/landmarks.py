"""Named landmarks of heads in pictures.

Points are pixels (x, y), x right, y down, with pixel centres at +0.5. "left" and "right" are sides
of the image of a frontal portrait, so `left_eye` is the person's own right eye.
"""

from collections.abc import Mapping

import numpy as np

Point = tuple[float, float]
Landmarks = Mapping[str, Point]

# The five points that detectors give, in the order in which every [5, 2] array holds them.
FIVE_POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")


def five_landmarks(landmarks: Landmarks) -> np.ndarray | None:  # [5, 2] float64
    """Return the five points of a face in their fixed order, or None if any of them is missing."""
    if not all(name in landmarks for name in FIVE_POINTS):
        return None
    return np.array([landmarks[name] for name in FIVE_POINTS], dtype=np.float64)


def named_landmarks(
    five: np.ndarray,  # [5, 2]
) -> dict[str, Point]:
    """Return five points of a face by their names; the inverse of `five_landmarks`."""
    assert np.shape(five) == (5, 2), np.shape(five)
    return {name: (float(x), float(y)) for name, (x, y) in zip(FIVE_POINTS, five, strict=True)}
