"""CelebAMask-HQ as it is released: one PNG a part of each face."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mate3d.errors import UserError
from mate3d.labels import CELEBAMASK_HQ, LabelSet
from training.data.preparation.listing import (
    FilesByKey,
    PhotoFiles,
    Unusable,
    find_files,
    make_listing,
    single_files,
)
from training.data.preparation.mask_files import read_part
from training.data.preparation.raw_item import IMAGE_SUFFIXES, Listing, RawItem, file_key

_PART_NAME = re.compile(r"(\d+)_(\w+)")


@dataclass(frozen=True)
class CelebAMaskHqSource(PhotoFiles):
    """CelebAMask-HQ's photos `0.jpg` and its parts `0/00000_skin.png`, `0/00000_l_eye.png`, ...

    `images` is its `CelebA-HQ-img`, `masks` its `CelebAMask-HQ-mask-anno`, `attributes` its
    `CelebAMask-HQ-attribute-anno.txt`.
    """

    label_set: LabelSet = CELEBAMASK_HQ

    def list_items(self) -> Listing:
        if self.label_set.name != CELEBAMASK_HQ.name:
            raise UserError(
                f"CelebAMask-HQ's parts are classes of {CELEBAMASK_HQ.name}, not of "
                f"{self.label_set.name}; name that as the set of the masks and convert them"
            )
        known = self.read_known(_number_key)
        images, unusable = self._find_images()
        photos, several = single_files(images)
        unusable += several
        if self.masks is None:
            return make_listing(photos, unusable, known, where=self.images)
        parts, no_parts = self._find_parts()
        unusable += no_parts
        unusable += [(f"{key}.png", "its parts have no image") for key in parts.keys() - images]
        candidates = []
        for key, image, _ in photos:
            files = parts.get(key, [])
            if not files or len({self._part_id(path) for path in files}) < len(files):
                reason = "a part of it has several files" if files else "it has no part files"
                unusable.append((f"{key}.png", reason))
            else:
                candidates.append((key, image, sorted(files, key=self._part_id)))
        return make_listing(candidates, unusable, known, where=self.images)

    def read_mask(self, item: RawItem) -> np.ndarray:  # [H, W] uint8
        """Merge the parts: those later in the release's list cover earlier ones."""
        parts = [read_part(path) for path in item.mask]
        label_map = np.zeros(parts[0].shape, dtype=np.uint8)
        for path, is_part in zip(item.mask, parts, strict=True):
            if is_part.shape != label_map.shape:
                raise UserError(
                    f"part {path} has {is_part.shape[1]}x{is_part.shape[0]} pixels, "
                    f"{item.mask[0].name} has {label_map.shape[1]}x{label_map.shape[0]}"
                )
            label_map[is_part] = self._part_id(path)
        return label_map

    def _find_images(self) -> tuple[FilesByKey, Unusable]:
        images: FilesByKey = {}
        unusable: Unusable = []
        for key, paths in find_files(self.images, IMAGE_SUFFIXES, without=self.masks).items():
            if file_key(key).isdecimal():
                images.setdefault(_number_key(key), []).extend(paths)
            else:
                unusable.append((f"{key}.png", "the names of CelebAMask-HQ's images are numbers"))
        return images, unusable

    def _find_parts(self) -> tuple[dict[str, Sequence[Path]], Unusable]:
        parts: dict[str, list[Path]] = {}
        unusable: Unusable = []
        for key, (path, *_) in find_files(self.masks, (".png",)).items():
            match = _PART_NAME.fullmatch(path.stem)
            if match is None or match[2] not in self.label_set.class_names[1:]:
                unusable.append((f"{key}.png", "it is no part file such as 00000_skin.png"))
            else:
                parts.setdefault(_number_key(match[1]), []).append(path)
        return parts, unusable

    def _part_id(self, path: Path) -> int:
        return self.label_set.class_id(path.stem.partition("_")[2])


def _number_key(name: str) -> str:
    """Return the number of a photo, which files write with and without leading zeros."""
    key = file_key(name)
    return str(int(key)) if key.isdecimal() else key
