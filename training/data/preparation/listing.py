"""Pairs photos with their masks and with what other files know of them."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mate3d.errors import UserError
from mate3d.labels import LabelSet
from training.data.preparation.camera_files import read_camera_file
from training.data.preparation.caption_files import read_captions
from training.data.preparation.raw_item import Listing, Point, RawItem, item_key
from training.data.preparation.side_files import read_attributes, read_landmarks

FilesByKey = dict[str, list[Path]]
Unusable = list[tuple[str, str]]


def find_files(
    folder: str | Path,
    suffixes: Sequence[str],
    *,
    without: str | Path | None = None,
) -> FilesByKey:
    """Return the files below a folder by their relative names without suffix.

    Hidden files and what archives of macOS add are left out.

    Args:
        folder: Where to look, at any depth.
        suffixes: Wanted ones in lower case, with their dots.
        without: A folder to leave out if it lies below.

    Raises:
        UserError: If the folder is missing or holds none.
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
        raise UserError(f"folder {folder} holds no {', '.join(suffixes)} files")
    return found


def _walk(folder: Path, left_out: Path | None) -> Iterator[tuple[Path, list[str]]]:
    """Yield folders and their files in order, through links, no folder twice."""
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
class Known:
    """What files beside the photos say, by key.

    Args:
        cameras: 25 numbers each, OpenCV axes.
        landmarks: Five points each, pixels.
        captions: Texts.
        attributes: Numbers by name each.
        problems: Why what is said of a photo cannot be used.
        notes: Sentences about the files.
        files: Keys that each file names.
    """

    cameras: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    landmarks: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: Mapping[Path, frozenset[str]] = field(default_factory=dict)

    def make_item(self, key: str, image: Path, mask: Sequence[Path]) -> RawItem:
        """Return a photo's item."""
        return RawItem(
            name=f"{key}.png",
            image=image,
            mask=tuple(mask),
            camera=self.cameras.get(key),
            landmarks=self.landmarks.get(key),
            caption=self.captions.get(key, ""),
            attributes=self.attributes.get(key, {}),
        )

    def coverage(self, keys: set[str]) -> list[str]:
        """Say which names of the files and which photos have no counterpart."""
        notes = []
        for path, named in self.files.items():
            if surplus := len(named - keys):
                notes.append(f"{path}: {surplus} of {len(named)} names have no usable image.")
            if missing := len(keys - named):
                notes.append(f"{path}: {missing} of {len(keys)} usable images are not named.")
        return notes


@dataclass(frozen=True)
class PhotoFiles:
    """Where a source's files are.

    Args:
        images: Folder of photos, at any depth.
        masks: Folder of PNG masks; None if a network is to make them.
        label_set: Meaning of the masks as they come.
        cameras: JSON file, see `read_camera_file`.
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

    def read_known(self, key: Callable[[str], str] = item_key) -> Known:
        """Read the files beside the photos.

        Args:
            key: Turns names in the files into the keys of the photos.

        Raises:
            UserError: If one is missing or malformed.
        """
        found: dict[str, Any] = {}
        problems: dict[str, str] = {}
        notes = []
        files: dict[Path, frozenset[str]] = {}
        if self.cameras is not None:
            file = read_camera_file(self.cameras)
            found["cameras"] = _renamed(file.cameras, key)
            problems |= {name: f"camera: {why}" for name, why in file.problems.items()}
            files[Path(self.cameras)] = frozenset(map(key, (*file.cameras, *file.problems)))
            if file.convention == "opengl":
                notes.append(f"{self.cameras}: axes of OpenGL, as IDE-3D's, converted to OpenCV's.")
        if self.landmarks is not None:
            points, bad = read_landmarks(Path(self.landmarks))
            found["landmarks"] = _renamed(points, key)
            problems |= bad
            files[Path(self.landmarks)] = frozenset(map(key, (*points, *bad)))
        for kind, path, read in (
            ("captions", self.captions, read_captions),
            ("attributes", self.attributes, read_attributes),
        ):
            if path is not None:
                found[kind] = _renamed(read(Path(path)), key)
                files[Path(path)] = frozenset(found[kind])
        return Known(**found, problems=_renamed(problems, key), notes=tuple(notes), files=files)


def make_listing(
    candidates: Iterable[tuple[str, Path, Sequence[Path]]],  # key, image, files of the mask
    unusable: Unusable,
    known: Known,
    *,
    where: str | Path,
    notes: Sequence[str] = (),
) -> Listing:
    """Join candidates with what is known of them.

    Args:
        candidates: One a photo.
        unusable: What was found to be unusable before.
        known: What other files say.
        where: The folder of the photos, for the message.
        notes: Sentences to pass on.

    Raises:
        UserError: If no photo is usable.
    """
    items, keys, unusable = [], set(), list(unusable)
    for key, image, mask in candidates:
        keys.add(key)
        printable = key.encode(errors="replace").decode()
        if printable != key:
            unusable.append((f"{printable}.png", "its name is not UTF-8; rename the file"))
        elif key in known.problems:
            unusable.append((f"{key}.png", known.problems[key]))
        elif known.cameras and key not in known.cameras:
            # Estimated cameras would not fit those of the file: origins and distances differ.
            unusable.append((f"{key}.png", "the camera file does not name it"))
        else:
            items.append(known.make_item(key, image, mask))
    unusable.sort()
    if not items:
        name, reason = unusable[0]
        raise UserError(f"no image below {where} can be used; first {name}: {reason}")
    all_notes = (*notes, *known.notes, *known.coverage(keys))
    return Listing(tuple(sorted(items, key=lambda i: i.name)), tuple(unusable), all_notes)


def pair_files(
    images: FilesByKey,
    masks: FilesByKey | None,
) -> tuple[list[tuple[str, Path, Sequence[Path]]], Unusable]:
    """Pair images and masks of the same key; say of all others why they have no pair.

    Without masks all images are candidates.
    """
    pairs, unusable = single_files(images)
    if masks is None:
        return pairs, unusable
    complete = []
    for key, image, _ in pairs:
        found = masks.get(key, [])
        if len(found) == 1:
            complete.append((key, image, found))
        else:
            reason = f"it has {len(found)} masks: {_names(found)}" if found else "it has no mask"
            unusable.append((f"{key}.png", reason))
    unusable += [
        (f"{key}.png", f"mask {_names(paths)} has no image")
        for key, paths in masks.items()
        if key not in images
    ]
    return complete, unusable


def single_files(
    images: FilesByKey,
) -> tuple[list[tuple[str, Path, Sequence[Path]]], Unusable]:
    """Return candidates without mask; images that share their key are unusable."""
    single = [(key, paths[0], ()) for key, paths in images.items() if len(paths) == 1]
    unusable = [
        (f"{key}.png", f"several images have this name: {_names(paths)}")
        for key, paths in images.items()
        if len(paths) > 1
    ]
    return single, unusable


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths)


def _renamed(values: Mapping[str, Any], key: Callable[[str], str]) -> dict[str, Any]:
    return {key(name): value for name, value in values.items()}
