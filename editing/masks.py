"""Painted masks: read them, and say which classes an edit may change."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from editing.regions import is_member
from mate3d.checkpoints.assets import folder_or_asset, where_to_find
from mate3d.errors import UserError
from mate3d.labels import LabelSet, load_label_map

# The mask file of a folder given as a mask.
MASK_FILE = "mask.png"
# Classes behind other parts: painting an ear over skin edits the ear.
SUPPORT_CLASSES = ("background", "skin")


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
) -> Tensor:  # [1, H, W] int64
    """Read a repainted mask.

    Raises:
        UserError: If the file is not a palette or grey PNG of known label ids, or does not have the
            generator's output size.
    """
    label_map = load_label_map(path, label_set)
    if label_map.shape != (resolution, resolution):
        height, width = label_map.shape
        raise UserError(
            f"mask {path} is {width} x {height}; use {resolution} x {resolution} pixels"
        )
    return torch.from_numpy(label_map.astype("int64")).unsqueeze(0)


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
