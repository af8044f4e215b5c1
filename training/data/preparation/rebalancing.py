"""Pose rebalancing: repeat images with rare poses more often."""

import math

import numpy as np
import torch

from mate3d.cameras import unpack_camera

# Bins over the range of |yaw| in the data.
_NUM_BINS = 24


def yaw_of_cameras(
    cameras: np.ndarray,  # [N, 25]
) -> np.ndarray:  # [N] radians
    """Return the yaw of each camera's viewing direction; 0 is frontal.

    It is computed from the direction, not the position, so that cameras not looking at the origin
    get the yaw of the face in the image.
    """
    pose, _ = unpack_camera(torch.as_tensor(cameras, dtype=torch.float32))
    forward = pose[:, :3, 2]
    return torch.atan2(-forward[:, 0], -forward[:, 2]).numpy()


def balancing_repeats(
    cameras: np.ndarray,  # [N, 25]
    max_repeats: int,
) -> np.ndarray:  # [N] int64 >= 1
    """Return repeats that flatten the histogram of |yaw| as far as `max_repeats` allows.

    Images of the most frequent bin occur once; those of a bin with a fraction f of its count occur
    1 / f times, rounded and at most `max_repeats`. Both sides share a bin because of flips.

    Args:
        max_repeats: Maximum repeats; 1 disables rebalancing.
    """
    yaw = np.abs(yaw_of_cameras(cameras))
    widest = max(float(yaw.max(initial=0.0)), math.radians(1))
    bins = np.minimum((yaw / widest * _NUM_BINS).astype(np.int64), _NUM_BINS - 1)
    counts = np.bincount(bins, minlength=_NUM_BINS)
    wanted = np.rint(counts.max() / np.maximum(counts[bins], 1)).astype(np.int64)
    return np.clip(wanted, 1, max_repeats)
