"""Write a data set: complete or not at all."""

import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from mate3d.errors import UserError
from mate3d.labels import LabelSet, save_label_map
from training.data.format.containers import (
    Container,
    FolderContainer,
    ShardContainer,
    ZipContainer,
)
from training.data.format.index import (
    CAMERA_CONVENTION,
    MAX_REPEATS,
    NUM_CAMERA_VALUES,
    VALUE_RULES,
)
from training.data.format.layout import (
    IMAGE_FOLDER,
    INDEX_NAME,
    MASK_FOLDER,
    SHARD_FOLDER,
    SUFFIX,
    check_name,
)

Attributes = Mapping[str, float | Sequence[float]]


def encode_pair(
    image: np.ndarray,  # [H, W, 3] uint8
    label_map: np.ndarray,  # [H, W] uint8
    label_set: LabelSet,
) -> tuple[bytes, bytes]:
    """Return an image and its label map as PNG files."""
    assert image.dtype == np.uint8 and image.shape == (*label_map.shape, 3), image.shape
    return encode_image(Image.fromarray(image)), encode_mask(label_map, label_set)


def encode_image(image: Image.Image) -> bytes:
    """Return an image as a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def encode_mask(
    label_map: np.ndarray,  # [H, W] uint8
    label_set: LabelSet,
) -> bytes:
    """Return a label map as a palette PNG file."""
    file = io.BytesIO()
    save_label_map(file, label_map, label_set)
    return file.getvalue()


class DatasetWriter:
    """Write a data set to a folder, an uncompressed archive (`.zip`), or tar shards in a folder.

    Use as a context manager. Everything goes to a hidden sibling that takes the final name at the
    end; an exception inside removes it, so that a data set is there complete or not at all.

    Args:
        path: Where the data set shall be.
        label_set: Meaning of the mask ids.
        overwrite: Replace a data set that is already there.
        shard_size: Samples of a tar shard; None writes single files.

    Raises:
        UserError: If something is there and may not be replaced, or shards are asked for in a zip.
    """

    def __init__(
        self,
        path: str | Path,
        label_set: LabelSet,
        *,
        overwrite: bool = False,
        shard_size: int | None = None,
    ):
        self._path = Path(path)
        self._label_set = label_set
        self._shard_size = shard_size
        self._is_zip = self._path.suffix.lower() == ".zip"
        self._overwrite = overwrite
        self._check_target()
        self._check_shard_size()
        self._partial = self._path.parent / f".{self._path.name}.partial"
        self._replaced = self._path.parent / f".{self._path.name}.partial-replaced"
        self._lock = FileLock(self._path.parent / f".{self._path.name}.partial.lock")
        self._container: Container | None = None
        self._labels: dict[str, list[float]] = {}
        self._captions: dict[str, str] = {}
        self._residuals: dict[str, float] = {}
        self._repeats: dict[str, int] = {}
        self._attributes: dict[str, Attributes] = {}
        self._preparation: dict[str, Any] = {}

    def add(
        self,
        name: str,
        image: np.ndarray,  # [H, W, 3] uint8
        label_map: np.ndarray,  # [H, W] uint8
        camera: Sequence[float],  # 25 numbers
        caption: str = "",
        *,
        residual: float | None = None,
        repeats: int = 1,
        attributes: Attributes | None = None,
    ) -> None:
        """Write one sample under a name such as `image_name` gives; see `add_encoded`."""
        image_png, mask_png = encode_pair(image, label_map, self._label_set)
        self.add_encoded(
            name,
            image_png,
            mask_png,
            camera,
            caption,
            residual=residual,
            repeats=repeats,
            attributes=attributes,
        )

    def add_encoded(
        self,
        name: str,
        image_png: bytes,
        mask_png: bytes,
        camera: Sequence[float],  # 25 numbers
        caption: str = "",
        *,
        residual: float | None = None,
        repeats: int = 1,
        attributes: Attributes | None = None,
    ) -> None:
        """Write one sample whose PNGs are ready; they are not looked into.

        Args:
            name: Relative path that ends in `.png`.
            image_png: 8-bit RGB, square.
            mask_png: 8-bit palette or grey, of the same size; pixel values are label ids.
            camera: Camera label.
            caption: What the image shows.
            residual: RMS reprojection error of the camera's landmarks, fraction of the image side.
            repeats: How often an epoch shows the sample, 1..`MAX_REPEATS`.
            attributes: Numbers that describe the sample.

        Raises:
            UserError: If the name is unsafe, does not end in `.png` or was given before, `repeats`
                is out of range, or a file cannot be written.
        """
        check_name(name)
        if not name.endswith(SUFFIX):
            raise UserError(f"name {name} of an image must end in {SUFFIX}")
        if not 1 <= repeats <= MAX_REPEATS:
            raise UserError(f"repeats={repeats} of {name} must be in 1..{MAX_REPEATS}")
        assert len(camera) == NUM_CAMERA_VALUES, len(camera)
        given = {"camera_residuals": residual, "attributes": attributes}
        for key, value in given.items():
            is_valid, allowed = VALUE_RULES[key]
            if value is not None and not is_valid(value):
                raise UserError(f"{key} of {name} are {value}; use {allowed}")
        if name in self._labels:
            raise UserError(f"two images of {self._path} are called {name}; names must differ")
        values = [float(value) for value in camera]
        record: dict[str, Any] = {"camera": values}
        self._labels[name] = values
        if caption:
            self._captions[name] = record["caption"] = caption
        if residual is not None:
            self._residuals[name] = record["camera_residual"] = float(residual)
        if repeats > 1:
            self._repeats[name] = record["repeats"] = int(repeats)
        if attributes:
            self._attributes[name] = record["attributes"] = dict(attributes)
        try:
            self._container.add(name, image_png, mask_png, record)
        except OSError as error:
            raise UserError(f"cannot write {name} of {self._path}: {error.strerror}") from error

    def describe(self, preparation: Mapping[str, Any]) -> None:
        """Say how the data set was made: anything that JSON can hold; goes to `dataset.json`."""
        self._preparation = dict(preparation)

    def __enter__(self) -> "DatasetWriter":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process is writing {self._path} already") from None
        except OSError as error:
            raise UserError(f"cannot write to {self._path}: {error.strerror}") from error
        try:
            self._clean_up()
            self._container = self._open_container()
        except UserError:
            self._unlock()
            raise
        except OSError as error:
            self._unlock()
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
            # A zip writes its directory even when it is given up, perhaps on a full disk.
            with suppress(OSError):
                self._container.close()
            self._discard()
            self._unlock()

    def _check_target(self) -> None:
        path = self._path
        is_empty = path.is_dir() and not any(path.iterdir())
        if not path.exists() or is_empty:
            return
        if not self._overwrite:
            raise UserError(f"output {path} exists already; remove it or give overwrite=true")
        # Never delete something that is not a data set because of a mistyped path.
        is_dataset = path.is_file() if self._is_zip else (path / INDEX_NAME).is_file()
        if not is_dataset:
            raise UserError(f"output {path} is not a data set, so it is not overwritten")
        strangers = [] if self._is_zip else [p.name for p in path.iterdir() if not _is_ours(p.name)]
        if strangers:
            raise UserError(
                f"output {path} holds more than a data set, first {min(strangers)}; it is not "
                "overwritten"
            )

    def _check_shard_size(self) -> None:
        if self._shard_size is None:
            return
        if self._shard_size < 1:
            raise UserError(f"shard_size={self._shard_size} must be at least 1")
        if self._is_zip:
            raise UserError(f"shards go to a folder, not to {self._path}; leave out '.zip'")

    def _open_container(self) -> Container:
        if self._is_zip:
            return ZipContainer(self._partial)
        if self._shard_size is not None:
            return ShardContainer(self._partial, self._shard_size)
        return FolderContainer(self._partial)

    def _finish(self) -> None:
        index = {
            "label_set": self._label_set.name,
            "label_set_version": self._label_set.version,
            "camera_convention": CAMERA_CONVENTION,
            "labels": list(self._labels.items()),
            "captions": self._captions,
        }
        optional = {
            "camera_residuals": self._residuals,
            "repeats": self._repeats,
            "attributes": self._attributes,
            "preparation": self._preparation,
        }
        index |= {key: value for key, value in optional.items() if value}
        try:
            self._container.finish(json.dumps(index).encode())
            self._put_in_place()
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror}") from error

    def _put_in_place(self) -> None:
        if self._is_zip:
            os.replace(self._partial, self._path)
            return
        if self._path.exists():
            os.replace(self._path, self._replaced)
        os.replace(self._partial, self._path)
        shutil.rmtree(self._replaced, ignore_errors=True)

    def _clean_up(self) -> None:
        """Remove what a killed process left; give back what it was about to replace."""
        self._discard()
        if self._replaced.exists() and not self._path.exists():
            os.replace(self._replaced, self._path)
            self._check_target()
        shutil.rmtree(self._replaced, ignore_errors=True)

    def _unlock(self) -> None:
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def _discard(self) -> None:
        if self._partial.is_dir():
            shutil.rmtree(self._partial)
        else:
            self._partial.unlink(missing_ok=True)


def _is_ours(name: str) -> bool:
    return name in (INDEX_NAME, IMAGE_FOLDER[:-1], MASK_FOLDER[:-1], SHARD_FOLDER)
