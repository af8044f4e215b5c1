"""Painted masks: read them, check that they fit, and say which classes an edit may change."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from editing.regions import PaintedView, repainted_classes
from mate3d.cameras import PitchDegrees
from mate3d.checkpoints.assets import folder_or_asset, where_to_find
from mate3d.errors import UserError
from mate3d.label_files import load_label_map
from mate3d.labels import LabelSet
from mate3d.options import FilePath, Options

# The mask file of a folder given as a mask.
MASK_FILE = "mask.png"
# A mask fits its source if at least this share of the source's outlines is farther than this share
# of the side from any change. Of the demo generator's masks, those of other heads reach 0.11 and
# the source's own with all of ears, eyes, mouth and nose grown by several pixels 0.25.
_LEAST_KEPT, _KEPT_DISTANCE = 0.18, 0.05


@dataclass(frozen=True)
class PaintedMask(Options):
    """A painted mask and its view.

    Args:
        mask: Repainted mask, as in the option mask.
        yaw_degrees: Yaw of the view in degrees.
        pitch_degrees: Pitch of the view in degrees.
    """

    mask: FilePath
    yaw_degrees: float = 0.0
    pitch_degrees: PitchDegrees = 0.0


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


def check_fit(view: PaintedView, what: str, *, may_differ: bool) -> None:
    """Notice a mask that was painted for another head or from another side.

    Where nothing was painted, a mask has the outlines of its source to the pixel. Another head's
    differ everywhere.

    Args:
        what: The mask, for the message.
        may_differ: Warn instead of refusing it.

    Raises:
        UserError: If hardly any outline of the source is left.
    """
    if (share := kept_outlines(view)) >= _LEAST_KEPT:
        return
    problem = (
        f"{what} keeps {share:.0%} of the source's outlines; it seems to be painted for another "
        "source, truncation_psi, yaw or pitch"
    )
    if not may_differ:
        raise UserError(f"{problem}. To use it all the same, list edit_classes or set it to all")
    _logger.warning("%s", problem)


def kept_outlines(view: PaintedView) -> float:
    """Return the share of the source's outlines that is away from all painted pixels."""
    source = view.source_label_map
    labels, changed = source[:, None].float(), (source != view.label_map)[:, None].float()
    is_outline = F.max_pool2d(labels, 3, 1, 1) != -F.max_pool2d(-labels, 3, 1, 1)
    radius = max(1, round(_KEPT_DISTANCE * source.shape[-1]))
    near = F.max_pool2d(changed, 2 * radius + 1, 1, radius) > 0
    return (is_outline & ~near).sum().item() / max(1, is_outline.sum().item())


def resolve_edit_classes(
    edit_classes: Sequence[str],
    views: Sequence[PaintedView],
    label_set: LabelSet,
    *,
    with_mask: bool = True,
) -> tuple[int, ...]:
    """Return the ids of the classes that an edit may change.

    Args:
        edit_classes: Class names; only "all" for every class but the background; or only "auto"
            for the classes painted into changed pixels, where skin or background was painted the
            class that was there before, and without a mask the same as "all".
        with_mask: Whether the views were painted.

    Raises:
        UserError: If a name is unknown, the list is empty, or "auto" finds no change.
    """
    names = tuple(edit_classes)
    if names == ("all",) or (names == ("auto",) and not with_mask):
        is_part = [name != "background" for name in label_set.class_names]
        return tuple(class_id for class_id, part in enumerate(is_part) if part)
    if names == ("auto",):
        found = repainted_classes(views, label_set)
        if not found:
            raise UserError("the mask equals the source mask; repaint it or list edit_classes")
        return found
    if len(names) == 0:
        raise UserError("edit_classes=[] edits nothing; use auto, all or a list such as ears,eyes")
    return tuple(sorted({label_set.class_id(name) for name in names}))
