"""The on-disk data set, a folder or a zip of the same tree: its files, its index, its writer.

The tree is described in datasets/README.md.
"""

import io
import json
import math
import os
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from PIL import Image

from mate3d.errors import UserError
from mate3d.labels import LabelSet, get_mask_label_set, save_label_map

CAMERA_CONVENTION = "opencv"
INDEX_NAME = "dataset.json"
NUM_CAMERA_VALUES = 25


class DatasetFiles(Protocol):
    """Read access to the tree of a data set."""

    path: Path

    def names(self) -> list[str]:
        """List all files, relative to the root, with forward slashes."""

    def read(self, name: str) -> bytes:
        """Return a file's content."""


class FolderFiles:
    """A data set in a folder."""

    def __init__(self, path: Path):
        self.path = path

    def names(self) -> list[str]:
        files = (path for path in self.path.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.path).as_posix() for path in files)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


class ZipFiles:
    """A data set in a zip archive, opened once in each process that reads it."""

    def __init__(self, path: Path):
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._process = 0

    def names(self) -> list[str]:
        return sorted(name for name in self._open().namelist() if not name.endswith("/"))

    def read(self, name: str) -> bytes:
        try:
            return self._open().read(name)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise UserError(f"archive {self.path} is damaged at {name}: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_archive": None, "_process": 0}

    def _open(self) -> zipfile.ZipFile:
        # A forked worker must not share the parent's file position.
        if self._archive is None or self._process != os.getpid():
            try:
                self._archive = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError) as error:
                raise UserError(f"archive {self.path} is not a readable zip: {error}") from None
            self._process = os.getpid()
        return self._archive


@dataclass(frozen=True)
class DatasetIndex:
    """What `dataset.json` says, checked against the files.

    Args:
        names: Image names relative to `images/` and `masks/`, sorted.
        cameras: One camera label an image, [N, 25] float32.
        captions: One text an image, "" where there is none.
        label_set: Meaning of the mask ids.
    """

    names: tuple[str, ...]
    cameras: np.ndarray
    captions: tuple[str, ...]
    label_set: LabelSet


def image_name(index: int) -> str:
    """Return the name of image number `index` in data sets that we make."""
    return f"{index // 1000:05d}/img{index:08d}.png"


def open_dataset(path: str | Path) -> tuple[DatasetFiles, DatasetIndex]:
    """Open a data set and check that images, masks and cameras belong together by name.

    Raises:
        UserError: If the path, `dataset.json` or one half of a pair is missing or malformed.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"data set not found: {path}; give a folder or a .zip archive")
    files = FolderFiles(path) if path.is_dir() else ZipFiles(path)
    names = files.names()
    if INDEX_NAME not in names:
        raise UserError(f"data set {path} has no {INDEX_NAME} at its top")
    index = _parse_index(files.read(INDEX_NAME), f"{path}/{INDEX_NAME}")
    images = {name.removeprefix("images/") for name in names if _is_png_in(name, "images/")}
    masks = {name.removeprefix("masks/") for name in names if _is_png_in(name, "masks/")}
    _require_same(path, "image", images, "mask", masks)
    _require_same(path, "image", images, f"camera in {INDEX_NAME}", set(index.names))
    if not images:
        raise UserError(f"data set {path} holds no images/**/*.png")
    return files, index


def _is_png_in(name: str, folder: str) -> bool:
    return name.startswith(folder) and name.lower().endswith(".png")


def _require_same(path: Path, kind: str, names: set[str], other: str, others: set[str]) -> None:
    for has, lacks, unpaired in ((kind, other, names - others), (other, kind, others - names)):
        if unpaired:
            raise UserError(
                f"data set {path}: {len(unpaired)} name(s) with {has} but without {lacks}, "
                f"first {min(unpaired)}; pairs must have the same name"
            )


def _parse_index(content: bytes, where: str) -> DatasetIndex:
    try:
        index = json.loads(content)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(index, dict) or not isinstance(index.get("labels"), list):
        raise UserError(f"{where} must hold 'labels': [[name, [25 numbers]], ...]")
    convention = index.get("camera_convention")
    if convention != CAMERA_CONVENTION:
        raise UserError(f"{where}: camera_convention is {convention!r}; use '{CAMERA_CONVENTION}'")
    label_set = get_mask_label_set(str(index.get("label_set")))
    cameras = dict(_parse_camera(entry, where) for entry in index["labels"])
    names = tuple(sorted(cameras))
    captions = index.get("captions") or {}
    if not isinstance(captions, dict) or not all(isinstance(t, str) for t in captions.values()):
        raise UserError(f"{where}: 'captions' must map image names to texts")
    return DatasetIndex(
        names=names,
        cameras=np.array([cameras[name] for name in names], dtype=np.float32).reshape(-1, 25),
        captions=tuple(captions.get(name, "") for name in names),
        label_set=label_set,
    )


def _parse_camera(entry: Any, where: str) -> tuple[str, list[float]]:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
        raise UserError(f"{where}: entry {str(entry)[:60]} of 'labels' is not [name, [25 numbers]]")
    name, camera = entry
    values = camera if isinstance(camera, list) else []
    numbers = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
    if len(values) != NUM_CAMERA_VALUES or len(numbers) != NUM_CAMERA_VALUES:
        raise UserError(
            f"{where}: camera of {name} has {len(numbers)} numbers of {len(values)} values; "
            f"a camera is {NUM_CAMERA_VALUES} finite numbers"
        )
    return name, numbers


class DatasetWriter:
    """Write a data set to a folder, or to an uncompressed archive if the path ends in `.zip`.

    Use as a context manager. Everything goes to a hidden sibling that takes the final name at the
    end; an exception inside removes it, so that a data set is there complete or not at all.

    Args:
        path: Where the data set shall be.
        label_set: Meaning of the mask ids.
        overwrite: Replace a data set that is already there.

    Raises:
        UserError: If something is there and may not be replaced.
    """

    def __init__(self, path: str | Path, label_set: LabelSet, *, overwrite: bool = False):
        self._path = Path(path)
        self._label_set = label_set
        self._is_zip = self._path.suffix.lower() == ".zip"
        self._check_target(overwrite)
        self._partial = self._path.parent / f".{self._path.name}.partial-{os.getpid()}"
        self._archive: zipfile.ZipFile | None = None
        self._labels: list[tuple[str, list[float]]] = []
        self._captions: dict[str, str] = {}

    def add(
        self,
        name: str,
        image: np.ndarray,  # [H, W, 3] uint8
        label_map: np.ndarray,  # [H, W] uint8
        camera: Sequence[float],  # 25 numbers
        caption: str = "",
    ) -> None:
        """Write one sample under a name such as `image_name` gives."""
        assert image.dtype == np.uint8 and image.shape == (*label_map.shape, 3), image.shape
        assert len(camera) == NUM_CAMERA_VALUES, len(camera)
        image_file, mask_file = io.BytesIO(), io.BytesIO()
        Image.fromarray(image).save(image_file, format="PNG")
        save_label_map(mask_file, label_map, self._label_set)
        self._write(f"images/{name}", image_file.getvalue())
        self._write(f"masks/{name}", mask_file.getvalue())
        self._labels.append((name, [float(value) for value in camera]))
        if caption:
            self._captions[name] = caption

    def __enter__(self) -> "DatasetWriter":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._discard()
            if self._is_zip:
                self._archive = zipfile.ZipFile(self._partial, "w", zipfile.ZIP_STORED)
            else:
                self._partial.mkdir()
        except OSError as error:
            raise UserError(f"cannot write to {self._path}: {error.strerror}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._archive is not None:
                self._archive.close()
            self._discard()

    def _check_target(self, overwrite: bool) -> None:
        path = self._path
        is_empty = path.is_dir() and not any(path.iterdir())
        if not path.exists() or is_empty:
            return
        if not overwrite:
            raise UserError(f"output {path} exists already; remove it or give overwrite=true")
        # Never delete something that is not a data set because of a mistyped path.
        is_dataset = path.is_file() if self._is_zip else (path / INDEX_NAME).is_file()
        if not is_dataset:
            raise UserError(f"output {path} is not a data set, so it is not overwritten")

    def _write(self, name: str, content: bytes) -> None:
        try:
            if self._archive is not None:
                # A fixed time stamp, so that the same data set has the same bytes.
                self._archive.writestr(zipfile.ZipInfo(name), content)
                return
            path = self._partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            raise UserError(f"cannot write {name} of {self._path}: {error.strerror}") from error

    def _finish(self) -> None:
        index = {
            "label_set": self._label_set.name,
            "camera_convention": CAMERA_CONVENTION,
            "labels": self._labels,
            "captions": self._captions,
        }
        self._write(INDEX_NAME, json.dumps(index).encode())
        if self._archive is not None:
            self._archive.close()
            os.replace(self._partial, self._path)
            return
        replaced = self._partial.with_name(f"{self._partial.name}-replaced")
        if self._path.exists():
            os.replace(self._path, replaced)
        os.replace(self._partial, self._path)
        shutil.rmtree(replaced, ignore_errors=True)

    def _discard(self) -> None:
        if self._partial.is_dir():
            shutil.rmtree(self._partial)
        else:
            self._partial.unlink(missing_ok=True)
