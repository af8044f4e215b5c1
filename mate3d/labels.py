"""Label sets (class names, palette, mirror pairs), and label map <-> one-hot <-> colour.

Label sets are defined by the files in `mate3d/label_sets/`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from mate3d.errors import UserError

LABEL_SET_FOLDER = Path(__file__).parent / "label_sets"


@dataclass(frozen=True)
class Converter:
    """A mapping from the ids of a label set to those of another.

    Args:
        target: Name of the other label set.
        table: The target id of each class, in the order of the source ids.
        note: A loss that the table alone does not show, or "".
    """

    target: str
    table: tuple[int, ...]
    note: str = ""


@dataclass(frozen=True)
class LabelSet:
    """The classes of a semantic mask; the index in `class_names` is the label id.

    Args:
        name: Identifier stored in datasets and checkpoints.
        class_names: One name per class, starting with id 0.
        palette: One uint8 RGB colour per class, all different.
        mirror_pairs: Ids that swap under a horizontal flip; each id is in at most one pair.
        version: Incremented when the meaning of an id changes.
        left_side: "image" if in a frontal portrait the classes `l_..._eye`, `l_..._brow` and
            `l_..._ear` are on the left of the image; None if the set has no sides.
        source: Where names, order and colours come from.
        inferred: Our assumptions where no source is explicit, one statement each.
        converters: Direct conversions to other sets; `mate3d.label_conversion` chains them.
    """

    name: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    mirror_pairs: tuple[tuple[int, int], ...] = ()
    version: int = 1
    left_side: Literal["image"] | None = None
    source: str = ""
    inferred: tuple[str, ...] = ()
    converters: tuple[Converter, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    def class_id(self, class_name: str) -> int:
        """Return the id of a class name.

        Raises:
            UserError: If the set has no such class.
        """
        if class_name not in self.class_names:
            allowed = ", ".join(self.class_names)
            raise UserError(
                f"unknown class '{class_name}' in label set {self.name}; use one of: {allowed}"
            )
        return self.class_names.index(class_name)

    def mirror_permutation(self) -> list[int]:
        """Return, for each id, the id it becomes under a horizontal flip."""
        permutation = list(range(self.num_classes))
        for left, right in self.mirror_pairs:
            permutation[left], permutation[right] = right, left
        return permutation


def _load_label_set(path: Path) -> LabelSet:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    classes = content["classes"]
    names = [one["name"] for one in classes]
    return LabelSet(
        name=content["name"],
        class_names=tuple(names),
        palette=tuple(tuple(one["color"]) for one in classes),
        mirror_pairs=tuple(
            (names.index(left), names.index(right)) for left, right in content["mirror_pairs"]
        ),
        version=content["version"],
        left_side=content["left_side"],
        source=content["source"].strip(),
        inferred=tuple(statement.strip() for statement in content["inferred"]),
        converters=tuple(
            Converter(one["target"], tuple(one["table"]), one.get("note", "").strip())
            for one in content["converters"]
        ),
    )


# The tests check that the files are consistent.
_LABEL_SETS = {path.stem: _load_label_set(path) for path in sorted(LABEL_SET_FOLDER.glob("*.yaml"))}

CATMASK_HQ = _LABEL_SETS["catmask_hq"]
CELEBAMASK_HQ = _LABEL_SETS["celebamask_hq"]


def label_set_names() -> tuple[str, ...]:
    """Return the names of all label sets."""
    return tuple(_LABEL_SETS)


def get_label_set(name: str) -> LabelSet:
    """Return a label set by name.

    Raises:
        UserError: If the name is unknown.
    """
    if name not in _LABEL_SETS:
        raise UserError(f"unknown label set '{name}'; use one of: {', '.join(_LABEL_SETS)}")
    return _LABEL_SETS[name]


def get_mask_label_set(name: str) -> LabelSet:
    """Return a label set that masks can use.

    Raises:
        UserError: If the name is unknown, or the set has no classes.
    """
    label_set = _LABEL_SETS.get(name)
    if label_set is None or label_set.num_classes == 0:
        allowed = ", ".join(one.name for one in _LABEL_SETS.values() if one.num_classes > 0)
        problem = (
            f"unknown label set '{name}'"
            if label_set is None
            else f"label set '{name}' has no classes, so masks cannot use it"
        )
        raise UserError(f"{problem}; use one of: {allowed}")
    return label_set


def one_hot_mask(
    label_map: Tensor,  # [B, H, W] integer
    num_classes: int,
) -> Tensor:  # [B, K, H, W] float32
    """Expand label ids to K binary planes; ids outside 0..K-1 give all-zero pixels (spec 8.8)."""
    ids = torch.arange(num_classes, device=label_map.device).view(1, -1, 1, 1)
    return (label_map.unsqueeze(1) == ids).float()


def segmentation_to_label_map(
    segmentation: Tensor,  # [B, K, H, W]
) -> Tensor:  # [B, H, W] int64
    """Return the class with the highest score at each pixel."""
    return segmentation.argmax(dim=1)


def colorize_label_map(
    label_map: Tensor,  # [B, H, W] integer in 0..K-1
    colors: LabelSet | Sequence[tuple[int, int, int]],
) -> Tensor:  # [B, 3, H, W] float32 in [-1, 1]
    """Paint each pixel in its class's colour, of a label set's palette or another one."""
    palette = colors.palette if isinstance(colors, LabelSet) else colors
    palette = torch.tensor(palette, dtype=torch.float32, device=label_map.device)
    return (palette[label_map.long()] / 127.5 - 1).permute(0, 3, 1, 2)


def save_label_map(path: str | Path, label_map: np.ndarray, label_set: LabelSet) -> None:
    """Write a [H, W] label map as an 8-bit palette PNG whose pixel values are the ids."""
    image = Image.fromarray(np.ascontiguousarray(label_map, dtype=np.uint8), mode="P")
    image.putpalette([value for color in label_set.palette for value in color])
    image.save(path, format="PNG")
