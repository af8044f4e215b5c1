"""Painted masks: read them, and say which classes an edit may change."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from editing.regions import is_member
from mate3d.checkpoints.assets import folder_or_asset, where_to_find
from mate3d.errors import UserError
from mate3d.label_files import load_label_map
from mate3d.labels import LabelSet

# The mask file of a folder given as a mask.
MASK_FILE = "mask.png"
# Classes behind other parts: painting an ear over skin edits the ear.
SUPPORT_CLASSES = ("background", "skin")

_logger = logging.getLogger(__name__)


def find_mask(path: str | Path) -> Path:
    """Return a mask's file: that file, or mask.png of a folder or an included edit.

    Raises:
        UserError: If there is no such file.
    """
    path = folder_or_asset(path)
    path = path / MASK_FILE if path.is_dir() else path
    if not path.exists():
        raise UserError(f"mask not found: {path}{where_to_find(path, f'*/{MASK_FILE}')}")
    return path


def load_painted_mask(
    path: Path,
    label_set: LabelSet,
    resolution: int,
    *,
    snap: bool = False,
) -> Tensor:  # [1, H, W] int64
    """Read a repainted mask; the log says what was changed in reading it.

    Args:
        resolution: Side of the generator's images. A whole multiple of it is reduced: each pixel
            takes the commonest class of its square.
        snap: See `load_label_map`.

    Raises:
        UserError: If the file is not certainly a mask of these classes and of such a size.
    """
    label_map = load_label_map(path, label_set, painted=True, snap=snap, say=_logger.info)
    height, width = label_map.shape
    factor = height // resolution
    if factor < 1 or label_map.shape != (factor * resolution, factor * resolution):
        raise UserError(
            f"mask {path} is {width} x {height}; use {resolution} x {resolution} pixels or a whole "
            "multiple of it"
        )
    if not label_map.any():
        raise UserError(f"mask {path} is all {label_set.class_names[0]}; was another layer saved?")
    squares = label_map.reshape(resolution, factor, resolution, factor).swapaxes(1, 2)
    counts = np.stack([(squares == id_).sum((2, 3)) for id_ in range(label_set.num_classes)])
    num_mixed = int((counts.max(axis=0) < factor**2).sum())
    if factor > 1:
        text = (
            "mask %s: reduced from %d to %d pixels; %d squares of mixed classes took the commonest"
        )
        _logger.info(text, path, height, resolution, num_mixed)
    return torch.from_numpy(counts.argmax(axis=0)).unsqueeze(0)


def resolve_edit_classes(
    edit_classes: Sequence[str],
    source_label_map: Tensor,  # [1, H, W]
    painted_label_map: Tensor,  # [1, H, W]
    label_set: LabelSet,
) -> tuple[int, ...]:
    """Return the ids of the classes that an edit may change.

    Args:
        edit_classes: Class names, or only "auto" for the classes painted into changed pixels;
            where skin or background was painted, the class that was there before.
        source_label_map: Rendered mask that the user repainted.

    Raises:
        UserError: If a name is unknown, the list is empty, or "auto" finds no change.
    """
    if tuple(edit_classes) == ("auto",):
        class_ids = _repainted_classes(source_label_map, painted_label_map, label_set)
        if not class_ids:
            raise UserError("the mask equals the source mask; repaint it or list edit_classes")
        return class_ids
    if len(edit_classes) == 0:
        raise UserError("edit_classes=[] edits nothing; use auto or a list such as [ears,eyes]")
    return tuple(sorted({label_set.class_id(name) for name in edit_classes}))


def _repainted_classes(
    source_label_map: Tensor,  # [1, H, W]
    painted_label_map: Tensor,  # [1, H, W]
    label_set: LabelSet,
) -> tuple[int, ...]:
    changed = source_label_map != painted_label_map
    before, after = source_label_map[changed], painted_label_map[changed]
    support = [
        class_id for class_id, name in enumerate(label_set.class_names) if name in SUPPORT_CLASSES
    ]
    painted_or_erased = torch.where(is_member(after, support), before, after)
    parts = set(painted_or_erased.unique().tolist()) - set(support)
    # If only skin and background were exchanged, the head itself changes.
    return tuple(sorted(parts or set(torch.cat([before, after]).tolist()) - {0}))
