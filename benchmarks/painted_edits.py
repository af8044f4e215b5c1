"""Repaint the mask of a frontal portrait by rule: bigger ears, no ears, a bigger nose.

Every function takes a rendered label map of `catmask_hq`, [1, H, W] at any resolution, and returns
a repainted copy. Lengths are relative to the parts, so that one edit means the same at any size.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import ndimage
from skimage.morphology import convex_hull_image
from torch import Tensor

from mate3d.labels import CATMASK_HQ

# Components with less than this share of a class's pixels are crumbs, not parts.
_MIN_SHARE = 0.1
# Height of a pointed ear over that of the ear it replaces.
_POINTED_HEIGHT = 1.6
# Free rim of the picture, as a share of its side.
_MARGIN = 0.02
_BACKGROUND, _SKIN = (CATMASK_HQ.class_id(name) for name in ("background", "skin"))

Paint = Callable[[Tensor], Tensor]


def unchanged(label_map: Tensor) -> Tensor:  # [1, H, W] both
    """Return the mask as it is, for an edit by prompt alone."""
    return label_map.clone()


def bigger_ears(label_map: Tensor, area: float = 2.0) -> Tensor:  # [1, H, W] both
    """Enlarge each ear about its base until it covers `area` times its pixels."""
    return _enlarge(label_map, "ears", area, over=[_BACKGROUND], is_grown_up=True)


def pointed_ears(label_map: Tensor) -> Tensor:  # [1, H, W] both
    """Raise each ear to a tip above its own."""
    painted, ears = _open(label_map, "ears")
    top = round(_MARGIN * len(painted))
    for ear in ears:
        rows, columns = np.nonzero(ear)
        height = rows.max() + 1 - rows.min()
        tip = max(rows.max() + 1 - round(_POINTED_HEIGHT * height), top)
        # The tip stands above the middle of the old one.
        column = round(columns[rows <= rows.min() + height / 8].mean())
        outline = ear.copy()
        outline[tip : rows.min() + 1, column] = True
        _fill(painted, convex_hull_image(outline), "ears", over=[_BACKGROUND])
    return _close(painted, label_map)


def no_ears(label_map: Tensor) -> Tensor:  # [1, H, W] both
    """Remove the ears; skin follows the head's convex outline below them."""
    painted, _ = _open(label_map, "ears")
    ears = painted == CATMASK_HQ.class_id("ears")
    head = convex_hull_image((painted != _BACKGROUND) & ~ears)
    painted[ears] = np.where(head, _SKIN, _BACKGROUND)[ears]
    return _close(painted, label_map)


def bigger_eyes(label_map: Tensor, area: float = 1.5) -> Tensor:  # [1, H, W] both
    """Enlarge each eye about its centre."""
    return _enlarge(label_map, "eyes", area, over=[_SKIN])


def bigger_nose(label_map: Tensor, area: float = 2.0) -> Tensor:  # [1, H, W] both
    """Enlarge the nose about its centre; the mouth stays."""
    return _enlarge(label_map, "nose", area, over=[_SKIN])


def everything(label_map: Tensor) -> Tensor:  # [1, H, W] both
    """Paint pointed ears, bigger eyes and a bigger nose."""
    return bigger_nose(bigger_eyes(pointed_ears(label_map)))


PAINTS: dict[str, Paint] = {
    paint.__name__: paint
    for paint in (
        unchanged,
        bigger_ears,
        pointed_ears,
        no_ears,
        bigger_eyes,
        bigger_nose,
        everything,
    )
}


def _enlarge(
    label_map: Tensor,  # [1, H, W]
    name: str,
    area: float,
    *,
    over: Sequence[int],
    is_grown_up: bool = False,
) -> Tensor:  # [1, H, W]
    """Enlarge each part of a class about its centre, or upwards from its lowest row.

    Args:
        over: Classes that the part may cover.
    """
    painted, parts = _open(label_map, name)
    for part in parts:
        allowed = part | np.isin(painted, over)
        low, high = 1.0, 4.0
        for _ in range(20):
            factor = (low + high) / 2
            if (_scaled(part, factor, is_grown_up) & allowed).sum() < area * part.sum():
                low = factor
            else:
                high = factor
        _fill(painted, _scaled(part, high, is_grown_up), name, over=over)
    return _close(painted, label_map)


def _scaled(
    part: np.ndarray,  # [H, W] bool
    factor: float,
    is_grown_up: bool,
) -> np.ndarray:  # [H, W] bool
    """Scale a part about its centre; what grows upwards widens less, and stands on its base."""
    rows, columns = np.nonzero(part)
    anchor = np.array([rows.max() if is_grown_up else rows.mean(), columns.mean()])
    factors = np.array([factor, factor**0.5 if is_grown_up else factor])
    # Interpolation keeps the edges smooth at any size.
    shift = anchor - anchor / factors
    scaled = ndimage.affine_transform(part.astype(float), 1 / factors, shift, order=1) > 0.5
    if is_grown_up:
        # Without gaps between the part and what it stands on.
        scaled[: rows.max() + 1] = np.logical_or.accumulate(scaled[: rows.max() + 1], axis=0)
    return scaled


def _open(
    label_map: Tensor,  # [1, H, W]
    name: str,
) -> tuple[np.ndarray, list[np.ndarray]]:  # [H, W] int64, [H, W] bool
    """Return a copy to paint on, and each connected part of a class."""
    painted = label_map[0].cpu().numpy().copy()
    is_class = painted == CATMASK_HQ.class_id(name)
    components, count = ndimage.label(is_class, structure=np.ones((3, 3)))
    parts = [components == index for index in range(1, count + 1)]
    return painted, [part for part in parts if part.sum() >= _MIN_SHARE * is_class.sum()]


def _fill(painted: np.ndarray, shape: np.ndarray, name: str, *, over: Sequence[int]) -> None:
    painted[shape & np.isin(painted, over)] = CATMASK_HQ.class_id(name)


def _close(painted: np.ndarray, label_map: Tensor) -> Tensor:
    return torch.from_numpy(painted).unsqueeze(0).to(label_map)
