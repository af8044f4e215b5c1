"""Label sets (class names, palette, mirror pairs) and label map <-> one-hot <-> colour."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mate3d.errors import UserError


@dataclass(frozen=True)
class LabelSet:
    """Named classes of a semantic mask; the position in `class_names` is the label id.

    Args:
        name: Identifier stored in datasets and checkpoints.
        class_names: One name a class, id 0 first.
        palette: One uint8 RGB colour a class.
        mirror_pairs: Ids that trade places under a horizontal flip.
    """

    name: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    mirror_pairs: tuple[tuple[int, int], ...] = ()

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
                f"unknown class '{class_name}' of label set {self.name}; use: {allowed}"
            )
        return self.class_names.index(class_name)

    def mirror_permutation(self) -> list[int]:
        """Return, for each id, the id it becomes under a horizontal flip."""
        permutation = list(range(self.num_classes))
        for left, right in self.mirror_pairs:
            permutation[left], permutation[right] = right, left
        return permutation


# Colours in the order that MaTe3D's figures use; the cat set takes the first six.
_PALETTE = (
    (0, 0, 0),
    (204, 0, 0),
    (76, 153, 0),
    (204, 204, 0),
    (51, 51, 255),
    (204, 0, 204),
    (0, 255, 255),
    (255, 204, 204),
    (102, 51, 0),
    (255, 0, 0),
    (102, 204, 0),
    (255, 255, 0),
    (0, 0, 153),
    (0, 0, 204),
    (255, 51, 153),
    (0, 204, 204),
    (0, 51, 0),
    (255, 153, 51),
    (0, 204, 0),
)

CATMASK_HQ = LabelSet(
    name="catmask_hq",
    class_names=("background", "skin", "ears", "eyes", "mouth", "nose"),
    palette=_PALETTE[:6],
)

CELEBAMASK_HQ = LabelSet(
    name="celebamask_hq",
    class_names=(
        "background",
        "skin",
        "nose",
        "eye_g",
        "l_eye",
        "r_eye",
        "l_brow",
        "r_brow",
        "l_ear",
        "r_ear",
        "mouth",
        "u_lip",
        "l_lip",
        "hair",
        "hat",
        "ear_r",
        "neck_l",
        "neck",
        "cloth",
    ),
    palette=_PALETTE,
    mirror_pairs=((4, 5), (6, 7), (8, 9)),
)

# For generators without a segmentation, such as EG3D's; there are no data sets of it.
UNLABELLED = LabelSet(name="unlabelled", class_names=(), palette=())

_LABEL_SETS = {label_set.name: label_set for label_set in (CATMASK_HQ, CELEBAMASK_HQ, UNLABELLED)}


def get_label_set(name: str) -> LabelSet:
    """Return a label set by name.

    Raises:
        UserError: If the name is unknown.
    """
    if name not in _LABEL_SETS:
        raise UserError(f"unknown label set '{name}'; use one of: {', '.join(_LABEL_SETS)}")
    return _LABEL_SETS[name]


def get_mask_label_set(name: str) -> LabelSet:
    """Return a label set that masks can follow.

    Raises:
        UserError: If the name is unknown, or the set has no classes.
    """
    label_set = get_label_set(name)
    if label_set.num_classes == 0:
        allowed = ", ".join(one.name for one in _LABEL_SETS.values() if one.num_classes > 0)
        raise UserError(f"label set '{name}' has no classes for masks; use one of: {allowed}")
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
    label_set: LabelSet,
) -> Tensor:  # [B, 3, H, W] float32 in [-1, 1]
    """Paint each pixel in its class's palette colour."""
    palette = torch.tensor(label_set.palette, dtype=torch.float32, device=label_map.device)
    return (palette[label_map.long()] / 127.5 - 1).permute(0, 3, 1, 2)


def save_label_map(path: str | Path, label_map: np.ndarray, label_set: LabelSet) -> None:
    """Write a [H, W] label map as an 8-bit palette PNG whose pixel values are the ids."""
    image = Image.fromarray(np.ascontiguousarray(label_map, dtype=np.uint8), mode="P")
    image.putpalette([value for color in label_set.palette for value in color])
    image.save(path, format="PNG")


def load_label_map(path: str | Path, label_set: LabelSet) -> np.ndarray:
    """Read a palette ("P") or grey ("L") mask PNG as a [H, W] uint8 label map.

    Raises:
        UserError: If the file is missing, unreadable, of another mode, or holds unknown ids.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError:
        raise UserError(f"mask not found: {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"mask {path} is not a readable image: {error}") from None
    if image.mode not in ("P", "L"):
        raise UserError(
            f"mask {path} has mode {image.mode}; use an 8-bit palette or grey PNG of label ids"
        )
    label_map = np.array(image, dtype=np.uint8)
    highest = label_set.num_classes - 1
    unknown = sorted(set(np.unique(label_map).tolist()) - set(range(label_set.num_classes)))
    if unknown:
        raise UserError(
            f"mask {path} holds unknown ids {unknown[:8]}; {label_set.name} allows 0..{highest}"
        )
    return label_map
