"""Where an edit may act, in 2D: painted masks, edited classes, pixels."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mate3d.checkpoints.assets import folder_or_asset, where_to_find
from mate3d.errors import UserError
from mate3d.labels import LabelSet, load_label_map

# What a folder given as a mask holds.
MASK_FILE = "mask.png"
# Classes that other parts sit on or in front of. Painting an ear over skin edits the ear.
SUPPORT_CLASSES = ("background", "skin")


def load_painted_mask(
    path: str | Path,
    label_set: LabelSet,
    resolution: int,
) -> Tensor:  # [1, H, W] int64
    """Read a repainted mask: a file, or mask.png of a folder or an included edit.

    Raises:
        UserError: If the file is missing, is not a palette or grey PNG of known label ids, or does
            not have the generator's output size.
    """
    path = folder_or_asset(path)
    path = path / MASK_FILE if path.is_dir() else path
    if not path.exists():
        raise UserError(f"mask not found: {path}{where_to_find(path, f'*/{MASK_FILE}')}")
    label_map = load_label_map(path, label_set)
    if label_map.shape != (resolution, resolution):
        height, width = label_map.shape
        raise UserError(
            f"mask {path} is {width} x {height}; use {resolution} x {resolution} pixels"
        )
    return torch.from_numpy(label_map.astype("int64")).unsqueeze(0)


def resolve_edit_classes(
    edit_classes: str | Sequence[str],
    source_label_map: Tensor,  # [1, H, W]
    painted_label_map: Tensor,  # [1, H, W]
    label_set: LabelSet,
) -> tuple[int, ...]:
    """Return the ids of the classes that an edit may change.

    Args:
        edit_classes: Class names, or "auto": what was painted in the changed pixels, or, where
            skin or background was painted, what had been there.
        source_label_map: Rendered mask that was handed out for painting.
        painted_label_map: The user's mask.
        label_set: Names of the ids.

    Raises:
        UserError: If a name is unknown, the list is empty, or "auto" finds nothing changed.
    """
    if isinstance(edit_classes, str) and edit_classes != "auto":
        raise UserError(f"edit_classes={edit_classes}; use auto or a list such as [ears,eyes]")
    if isinstance(edit_classes, str):
        class_ids = _repainted_classes(source_label_map, painted_label_map, label_set)
        if not class_ids:
            raise UserError("the mask equals the source mask; repaint it or list edit_classes")
        return class_ids
    if len(edit_classes) == 0:
        raise UserError("edit_classes=[] edits nothing; use auto or a list such as [ears,eyes]")
    return tuple(sorted({label_set.class_id(name) for name in edit_classes}))


def is_member(
    label_map: Tensor,  # [...] integer
    class_ids: Sequence[int],
) -> Tensor:  # [...] bool
    """Return where a label is one of `class_ids`."""
    return torch.isin(label_map, torch.tensor(class_ids, device=label_map.device))


def repainted_pixels(
    source_label_map: Tensor,  # [1, H, W]
    painted_label_map: Tensor,  # [1, H, W]
    class_ids: Sequence[int],
) -> Tensor:  # [1, 1, H, W] bool
    """Return the pixels whose label was changed from or to an edited class."""
    is_changed = source_label_map != painted_label_map
    concerns_edit = is_member(source_label_map, class_ids) | is_member(painted_label_map, class_ids)
    return (is_changed & concerns_edit).unsqueeze(1)


def edit_mask(
    label_maps: Sequence[Tensor],  # each [B, H, W]
    class_ids: Sequence[int],
    dilation_pixels: int,
) -> Tensor:  # [B, 1, H, W] bool
    """Return the pixels that show an edited class in any of the label maps, dilated.

    Args:
        label_maps: Usually the source, the edited and the painted mask of one view.
        class_ids: Edited classes.
        dilation_pixels: Radius of the square by which the pixels grow.
    """
    members = torch.stack([is_member(label_map, class_ids) for label_map in label_maps])
    mask, side = members.any(dim=0).unsqueeze(1).float(), 2 * dilation_pixels + 1
    return F.max_pool2d(mask, side, stride=1, padding=dilation_pixels) > 0


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
    # Between skin and background there is no part; then the head itself is what changes.
    return tuple(sorted(parts or set(torch.cat([before, after]).tolist()) - {0}))
