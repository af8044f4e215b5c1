"""Borders between the classes of a mask: find them, and undo what mixed them."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.ndimage import binary_dilation, binary_opening, distance_transform_edt

from mate3d.label_colors import Color, find_similar

# Pixels over which resizing, anti-aliasing or JPEG's halved colour resolution mix two classes.
_MAX_MIXED = 4


def snap_colors(
    colors: np.ndarray,  # [H, W, 3] uint8
    palette: Sequence[Color],
) -> np.ndarray | None:  # [H, W] uint8
    """Return the classes of colours that JPEG or anti-aliasing changed; None if more is wrong.

    Pixels that are similar to a class's colour are of that class, unless it may be the mixture of a
    class beside them and another one, and covers no square of 2 x 2 pixels there. The other pixels
    get the class beside them with the most similar colour.
    """
    codes, place = np.unique(colors.reshape(-1, 3), axis=0, return_inverse=True)
    similar, is_similar = find_similar(codes, palette, 1 / 4)
    ids = np.where(is_similar, similar, len(palette))[place].reshape(colors.shape[:2])
    present = np.unique(similar[is_similar]).tolist()
    is_near = {class_id: binary_dilation(ids == class_id, np.ones((5, 5))) for class_id in present}
    is_sure = np.zeros(ids.shape, dtype=bool)
    for class_id in present:
        is_mixed = np.zeros(ids.shape, dtype=bool)
        for one, other in combinations([each for each in present if each != class_id], 2):
            mixtures = np.linspace(palette[one], palette[other], 64)
            meant, is_meant = find_similar(mixtures, palette, 1 / 4)
            if (meant[is_meant] == class_id).any():
                is_mixed |= is_near[one] | is_near[other]
        is_class = ids == class_id
        is_sure |= (is_class & ~is_mixed) | binary_opening(is_class, np.ones((2, 2)))
    if not is_sure.any() or distance_transform_edt(~is_sure).max() > _MAX_MIXED:
        return None
    result = fill_from_nearest(ids, ~is_sure)
    closest = np.full(ids.shape, np.inf)
    for class_id in present:
        is_near_sure = binary_dilation((ids == class_id) & is_sure, np.ones((5, 5)))
        distance = np.abs(colors - np.array(palette[class_id], dtype=np.float64)).sum(axis=-1)
        is_better = ~is_sure & is_near_sure & (distance < closest)
        result[is_better] = class_id
        closest[is_better] = distance[is_better]
    return result.astype(np.uint8)


def fill_from_nearest(
    values: np.ndarray,  # [H, W]
    is_unsure: np.ndarray,  # [H, W] bool
) -> np.ndarray:  # [H, W]
    """Replace each unsure pixel by the nearest sure one; unchanged if none is sure."""
    if is_unsure.all() or not is_unsure.any():
        return values.copy()
    indices = distance_transform_edt(is_unsure, return_distances=False, return_indices=True)
    return values[tuple(indices)]


def find_boundaries(values: np.ndarray) -> np.ndarray:  # [H, W] -> [H, W] bool
    """Return the pixels that differ from one of their four neighbours."""
    across = np.pad(values[:, 1:] != values[:, :-1], ((0, 0), (1, 1)))
    down = np.pad(values[1:] != values[:-1], ((1, 1), (0, 0)))
    return across[:, 1:] | across[:, :-1] | down[1:] | down[:-1]


def find_in_between(values: np.ndarray) -> np.ndarray:  # [H, W] -> [H, W] bool
    """Return the pixels with values strictly between those of two opposite neighbours.

    Interpolation makes a ramp of such pixels along every border; drawn masks have few.
    """
    across, down = (np.sign(np.diff(values.astype(np.int16), axis=axis)) for axis in (1, 0))
    found = np.pad(across[:, 1:] * across[:, :-1] > 0, ((0, 0), (1, 1)))
    return found | np.pad(down[1:] * down[:-1] > 0, ((1, 1), (0, 0)))
