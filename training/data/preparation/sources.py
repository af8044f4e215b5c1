"""Sources with one mask file a photo: any folder (FFHQ among them), and CatMask-HQ."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mate3d.label_conversion import swap_classes
from mate3d.labels import CATMASK_HQ, LabelSet
from training.data.preparation.listing import (
    FilesByKey,
    Known,
    PhotoFiles,
    find_files,
    make_listing,
    pair_files,
)
from training.data.preparation.mask_files import read_mask_file
from training.data.preparation.raw_item import IMAGE_SUFFIXES, Listing, RawItem, file_key

_MASK_SUFFIXES = (".png",)


@dataclass(frozen=True)
class FolderSource(PhotoFiles):
    """Photos in a folder, masks of the same relative names in another or beside them.

    Args:
        copies_from: Photos whose name ends in 8 digits of at least this number are left out; EG3D's
            FFHQ has copies for rebalancing from 140000 on. None keeps all.
    """

    copies_from: int | None = None

    def list_items(self) -> Listing:
        known = self.read_known()
        images, num_copies = self._without_copies(self._find_images())
        note = f"{num_copies} images numbered from {self.copies_from} on are copies and left out."
        return _list_pairs(
            self, images, lambda m: self._without_copies(m)[0], known, note if num_copies else ""
        )

    def read_mask(self, item: RawItem) -> np.ndarray:  # [H, W] uint8
        (path,) = item.mask
        return read_mask_file(path, self.label_set)

    def _find_images(self) -> FilesByKey:
        if self.masks is None:
            return find_files(self.images, IMAGE_SUFFIXES)
        if Path(self.masks).resolve() == Path(self.images).resolve():
            # Photos and masks side by side: the PNG files are the masks.
            suffixes = tuple(s for s in IMAGE_SUFFIXES if s not in _MASK_SUFFIXES)
            return find_files(self.images, suffixes)
        return find_files(self.images, IMAGE_SUFFIXES, without=self.masks)

    def _without_copies(self, files: FilesByKey) -> tuple[FilesByKey, int]:
        originals = {key: paths for key, paths in files.items() if not self._is_copy(key)}
        return originals, len(files) - len(originals)

    def _is_copy(self, key: str) -> bool:
        digits = re.search(r"\d{8}$", key)
        return None not in (digits, self.copies_from) and int(digits[0]) >= self.copies_from


@dataclass(frozen=True)
class CatMaskHqSource(PhotoFiles):
    """CatMask-HQ's masks and the cats of AFHQv2, matched by file name whatever their folders.

    `images` is AFHQv2's root or a folder of cats. Where there are folders named `cat`, only these
    count.

    Args:
        swap_mouth_and_nose: Exchange the two classes whose ids are inferred.
    """

    label_set: LabelSet = CATMASK_HQ
    swap_mouth_and_nose: bool = False

    def list_items(self) -> Listing:
        known = self.read_known(file_key)
        images, num_others = self._find_cats()
        note = f"{num_others} images outside folders named cat are left out."
        return _list_pairs(self, images, _by_file_name, known, note if num_others else "")

    def read_mask(self, item: RawItem) -> np.ndarray:  # [H, W] uint8
        (path,) = item.mask
        label_map = read_mask_file(path, self.label_set)
        if not self.swap_mouth_and_nose:
            return label_map
        mouth, nose = self.label_set.class_id("mouth"), self.label_set.class_id("nose")
        return swap_classes(label_map, mouth, nose)

    def _find_cats(self) -> tuple[FilesByKey, int]:
        found = find_files(self.images, IMAGE_SUFFIXES, without=self.masks)
        cats = {key: paths for key, paths in found.items() if "cat" in key.split("/")[:-1]}
        num_others = len(found) - len(cats) if cats else 0
        return _by_file_name(cats or found), num_others


def _list_pairs(
    source: PhotoFiles,
    images: FilesByKey,
    choose_masks: Callable[[FilesByKey], FilesByKey],
    known: Known,
    note: str,
) -> Listing:
    """List images with their masks, of those that `choose_masks` keeps and names."""
    masks = None if source.masks is None else choose_masks(find_files(source.masks, _MASK_SUFFIXES))
    candidates, unusable = pair_files(images, masks)
    notes = [note] if note else []
    return make_listing(candidates, unusable, known, where=source.images, notes=notes)


def _by_file_name(files: FilesByKey) -> FilesByKey:
    named: FilesByKey = {}
    for key, paths in files.items():
        named.setdefault(file_key(key), []).extend(paths)
    return named
