"""Published datasets as sources: any folder (such as FFHQ), CatMask-HQ, CelebAMask-HQ."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mate3d.errors import UserError
from mate3d.label_conversion import swap_classes
from mate3d.label_files import open_mask
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ, LabelSet
from training.data.preparation.listing import FilesByKey, PhotoFiles, find_files
from training.data.preparation.samples import IMAGE_SUFFIXES, Listing, RawItem, file_key

_MASK_SUFFIXES = (".png",)
_PART_NAME = re.compile(r"(\d+)_(\w+)")


@dataclass(frozen=True)
class FolderSource(PhotoFiles):
    """Photos in a folder, with masks of the same relative names in another or the same folder.

    Args:
        copies_from: Leave out photos whose name ends in an 8-digit number of at least this; EG3D's
            FFHQ has copies for rebalancing from 140000 on. None keeps all.
    """

    copies_from: int | None = None

    def list_items(self) -> Listing:
        suffixes = IMAGE_SUFFIXES
        if self.masks is not None and Path(self.masks).resolve() == Path(self.images).resolve():
            # Photos and masks side by side: the PNG files are the masks.
            suffixes = tuple(s for s in IMAGE_SUFFIXES if s not in _MASK_SUFFIXES)
        found = find_files(self.images, suffixes, without=self.masks)
        images = self._without_copies(found)
        masks = None if self.masks is None else find_files(self.masks, _MASK_SUFFIXES)
        num_copies = len(found) - len(images)
        note = f"{num_copies} copies (numbers from {self.copies_from} on) were left out."
        return self.join(
            images, masks and self._without_copies(masks), notes=[note] if num_copies else []
        )

    def _without_copies(self, files: FilesByKey) -> FilesByKey:
        return {key: paths for key, paths in files.items() if not self._is_copy(key)}

    def _is_copy(self, key: str) -> bool:
        digits = re.search(r"\d{8}$", key)
        return None not in (digits, self.copies_from) and int(digits[0]) >= self.copies_from


@dataclass(frozen=True)
class CatMaskHqSource(PhotoFiles):
    """CatMask-HQ's masks and the cats of AFHQv2, matched by file name whatever their folders.

    `images` is AFHQv2's root or a folder of cats. Where there are folders named `cat`, only these
    count.

    Args:
        swap_mouth_and_nose: Swap the two classes whose ids are inferred.
    """

    label_set: LabelSet = CATMASK_HQ
    swap_mouth_and_nose: bool = False

    def list_items(self) -> Listing:
        found = find_files(self.images, IMAGE_SUFFIXES, without=self.masks)
        cats = {key: paths for key, paths in found.items() if "cat" in key.split("/")[:-1]}
        num_others = len(found) - len(cats) if cats else 0
        note = f"{num_others} images outside folders named cat were left out."
        masks = None if self.masks is None else find_files(self.masks, _MASK_SUFFIXES)
        return self.join(
            _by_file_name(cats or found),
            masks and _by_file_name(masks),
            key=file_key,
            notes=[note] if num_others else [],
        )

    def read_mask(self, item: RawItem) -> np.ndarray:  # [H, W] uint8
        label_map = super().read_mask(item)
        if not self.swap_mouth_and_nose:
            return label_map
        mouth, nose = self.label_set.class_id("mouth"), self.label_set.class_id("nose")
        return swap_classes(label_map, mouth, nose)


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
                f"{self.label_set.name}; set the masks' label set to it and convert them"
            )
        images: FilesByKey = {}
        parts: FilesByKey = {}
        problems = {}
        for key, paths in find_files(self.images, IMAGE_SUFFIXES, without=self.masks).items():
            if file_key(key).isdecimal():
                images.setdefault(_number_key(key), []).extend(paths)
            else:
                problems[key] = "names of CelebAMask-HQ images must be numbers"
        found = {} if self.masks is None else find_files(self.masks, _MASK_SUFFIXES)
        for key, (path, *_) in found.items():
            match = _PART_NAME.fullmatch(path.stem)
            if match is None or match[2] not in self.label_set.class_names[1:]:
                problems[key] = "not a part file such as 00000_skin.png"
            else:
                parts.setdefault(_number_key(match[1]), []).append(path)
        for files in parts.values():
            files.sort(key=self._part_id)
        masks = None if self.masks is None else parts
        return self.join(images, masks, key=_number_key, problems=problems)

    def mask_problem(self, files: Sequence[Path]) -> str:
        if not files:
            return "no part files"
        is_unique = len(set(map(self._part_id, files))) == len(files)
        return "" if is_unique else "several files for one part"

    def read_mask(self, item: RawItem) -> np.ndarray:  # [H, W] uint8
        """Merge the parts; parts with higher ids cover those with lower ids."""
        parts = [_read_part(path) for path in item.mask]
        label_map = np.zeros(parts[0].shape, dtype=np.uint8)
        for path, is_part in zip(item.mask, parts, strict=True):
            if is_part.shape != label_map.shape:
                raise UserError(
                    f"part {path} has {is_part.shape[1]}x{is_part.shape[0]} pixels, "
                    f"{item.mask[0].name} has {label_map.shape[1]}x{label_map.shape[0]}"
                )
            label_map[is_part] = self._part_id(path)
        return label_map

    def _part_id(self, path: Path) -> int:
        return self.label_set.class_id(path.stem.partition("_")[2])


def _read_part(path: Path) -> np.ndarray:  # [H, W] bool
    """Read the file of one part, which is 255 (or white) inside and 0 outside."""
    return np.asarray(open_mask(path).convert("L")) > 127


def _by_file_name(files: FilesByKey) -> FilesByKey:
    named: FilesByKey = {}
    for key, paths in files.items():
        named.setdefault(file_key(key), []).extend(paths)
    return named


def _number_key(name: str) -> str:
    """Return the number of a photo, which may have leading zeros in file names."""
    key = file_key(name)
    return str(int(key)) if key.isdecimal() else key
