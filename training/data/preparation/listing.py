"""Pairs photos with their masks and with data from other files."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mate3d.errors import UserError
from mate3d.label_files import load_label_map
from mate3d.labels import LabelSet
from training.data.preparation.samples import FailedSample, Listing, RawItem, item_key
from training.data.preparation.side_files import (
    read_attributes,
    read_cameras,
    read_captions,
    read_landmarks,
)

FilesByKey = dict[str, list[Path]]


def find_files(
    folder: str | Path,
    suffixes: Sequence[str],
    *,
    without: str | Path | None = None,
) -> FilesByKey:
    """Return the files in a folder, recursively, by relative name without suffix.

    Hidden files and those added by macOS archives are left out.

    Args:
        suffixes: Accepted suffixes, in lower case with dot.
        without: Subfolder to leave out.

    Raises:
        UserError: If the folder is missing or contains no such files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"folder not found: {folder}")
    found: FilesByKey = {}
    for parent, names in _walk(folder, None if without is None else Path(without).resolve()):
        prefix = parent.relative_to(folder).as_posix()
        prefix = "" if prefix == "." else f"{prefix}/"
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in suffixes and not name.startswith("."):
                found.setdefault(f"{prefix}{stem}", []).append(parent / name)
    if not found:
        raise UserError(f"folder {folder} contains no {', '.join(suffixes)} files")
    return found


def _walk(folder: Path, left_out: Path | None) -> Iterator[tuple[Path, list[str]]]:
    """Yield folders and their files in order, following links, each folder once."""
    seen = {left_out, folder.resolve()}
    for parent, folders, files in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(folders):
            resolved = Path(parent, name).resolve()
            if not name.startswith(".") and name != "__MACOSX" and resolved not in seen:
                seen.add(resolved)
                kept.append(name)
        folders[:] = kept
        yield Path(parent), sorted(files)


@dataclass(frozen=True)
class PhotoFiles(ABC):
    """Photos and masks as others publish them; pickles, so that workers can read masks.

    Args:
        images: Folder of photos, at any depth.
        masks: Folder of PNG masks; None if a network is to make them.
        label_set: Meaning of the masks as they come.
        cameras: JSON file, see `read_cameras`.
        landmarks: JSON file or folder, see `read_landmarks`.
        captions: JSON, JSON lines or CSV file or folder, see `read_captions`.
        attributes: JSON file or CelebA's, see `read_attributes`.
    """

    images: str | Path
    masks: str | Path | None
    label_set: LabelSet
    cameras: str | Path | None = None
    landmarks: str | Path | None = None
    captions: str | Path | None = None
    attributes: str | Path | None = None

    @abstractmethod
    def list_items(self) -> Listing:
        """List the photos.

        Raises:
            UserError: If a folder or file is missing or malformed, or no photo is usable.
        """

    def read_mask(self, item: RawItem) -> np.ndarray:  # [H, W] uint8
        """Return the item's label map with the ids of `label_set`.

        Raises:
            UserError: If a file of the mask is unreadable or does not contain labels.
        """
        (path,) = item.mask
        return load_label_map(path, self.label_set)

    def mask_problem(self, files: Sequence[Path]) -> str:
        """Return why the files of a photo's mask cannot be used, or ""."""
        if not files:
            return "no mask"
        return f"{len(files)} masks: {_names(files)}" if len(files) > 1 else ""

    def join(
        self,
        images: FilesByKey,
        masks: FilesByKey | None,
        *,
        key: Callable[[str], str] = item_key,
        problems: Mapping[str, str] | None = None,
        notes: Sequence[str] = (),
    ) -> Listing:
        """Join photos with their masks and with data from the other files, by key.

        Args:
            images: Files by key; more than one per key is a problem.
            masks: Files of each mask; None if there are none yet.
            key: Converts names in the other files to keys.
            problems: Why other files that were found cannot be used, by key.
            notes: Sentences to include in the listing.

        Raises:
            UserError: If a file is missing or malformed, or no photo is usable.
        """
        problems = dict(problems or {})
        for name, paths in images.items():
            if len(paths) > 1:
                problems[name] = f"several images have this name: {_names(paths)}"
            elif masks is not None and (problem := self.mask_problem(masks.get(name, []))):
                problems[name] = problem
            elif name.encode(errors="replace").decode() != name:
                problems[name] = "name is not UTF-8; rename the file"
        for name in (masks or {}).keys() - images:
            problems[name] = f"mask {masks[name][0]} has no image"
        known, not_known, more_notes = self._read_known(key, images.keys() - problems)
        for name in images.keys() - problems:
            if name in not_known:
                problems[name] = not_known[name]
            elif name not in known.get("camera", images):
                # Estimated cameras would not match those of the file: origins and distances differ.
                problems[name] = "not in the camera file"
        items = [
            RawItem(
                f"{name}.png",
                images[name][0],
                tuple(masks[name]) if masks else (),
                **{kind: values[name] for kind, values in known.items() if name in values},
            )
            for name in images.keys() - problems
        ]
        unusable = sorted(
            FailedSample(f"{name}.png".encode(errors="replace").decode(), why)
            for name, why in problems.items()
        )
        if not items:
            name, why = unusable[0]
            raise UserError(f"no usable image in {self.images}; first {name}: {why}")
        items.sort(key=lambda item: item.name)
        return Listing(tuple(items), tuple(unusable), (*notes, *more_notes))

    def _read_known(
        self, key: Callable[[str], str], keys: set[str]
    ) -> tuple[dict[str, dict[str, Any]], dict[str, str], list[str]]:
        """Read the files beside the photos, which have these keys.

        Returns:
            Fields of `RawItem`, each with values by key; problems of photos by key; and notes
            about the files.
        """
        known: dict[str, dict[str, Any]] = {}
        problems: dict[str, str] = {}
        notes, coverage = [], []
        for kind, location, read in (
            ("camera", self.cameras, read_cameras),
            ("landmarks", self.landmarks, read_landmarks),
            ("caption", self.captions, read_captions),
            ("attributes", self.attributes, read_attributes),
        ):
            if location is None:
                continue
            file = read(Path(location))
            known[kind] = {key(name): value for name, value in file.values.items()}
            problems |= {key(name): f"{kind}: {why}" for name, why in file.problems.items()}
            notes += [f"{location}: {file.note}"] if file.note else []
            named = set(map(key, (*file.values, *file.problems)))
            for count, total, words in (
                (len(named - keys), len(named), "names have no usable image"),
                (len(keys - named), len(keys), "usable images are missing there"),
            ):
                coverage += [f"{location}: {count} of {total} {words}."] if count else []
        return known, problems, notes + coverage


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
