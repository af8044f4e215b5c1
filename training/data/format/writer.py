"""Atomic writing of datasets."""

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import training.data.format.layout as layout
from mate3d.atomic import atomic_file, atomic_folder, file_lock, remove_leftovers
from mate3d.errors import UserError
from mate3d.labels import LabelSet, save_label_map
from training.data.format.containers import (
    Container,
    FolderContainer,
    ShardContainer,
    ZipContainer,
)
from training.data.format.index import CAMERA_CONVENTION, NUM_CAMERA_VALUES, VALUE_RULES

Attributes = Mapping[str, float | Sequence[float]]

# Keys in a sample's shard record for entries of `dataset.json`.
_RECORD_KEYS = {
    "captions": "caption",
    "camera_residuals": "camera_residual",
    "repeats": "repeats",
    "attributes": "attributes",
}


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
    """Writes a dataset to a folder, an uncompressed archive (`.zip`), or tar shards in a folder.

    Use as a context manager; an exception inside leaves the output unchanged.

    Args:
        label_set: Meaning of the mask ids.
        shard_size: Samples per tar shard; None writes single files.

    Raises:
        UserError: If the output exists and must not be replaced, or shards are requested in a zip.
    """

    def __init__(
        self,
        path: str | Path,
        label_set: LabelSet,
        *,
        overwrite: bool = False,
        shard_size: int | None = None,
    ):
        self.path = Path(path)
        self._label_set = label_set
        self._shard_size = shard_size
        self._is_zip = self.path.suffix.lower() == ".zip"
        self._overwrite = overwrite
        self._check_target()
        if shard_size is not None and self._is_zip:
            raise UserError(f"cannot write shards to {path}; use a folder, without '.zip'")
        self._labels: dict[str, list[float]] = {}
        self._known: dict[str, dict[str, Any]] = {key: {} for key in _RECORD_KEYS}
        self._preparation: dict[str, Any] = {}

    def add(
        self,
        name: str,
        image: np.ndarray,  # [H, W, 3] uint8
        label_map: np.ndarray,  # [H, W] uint8
        camera: Sequence[float],  # 25 numbers
        caption: str = "",
        **known: Any,
    ) -> None:
        """Write one sample; `known` are further arguments of `add_encoded`."""
        pair = encode_pair(image, label_map, self._label_set)
        self.add_encoded(name, *pair, camera, caption, **known)

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
        """Write one sample with encoded PNGs, which are not checked.

        Args:
            name: Relative path that ends in `.png`, such as from `image_name`.
            image_png: 8-bit RGB, square.
            mask_png: 8-bit palette or grey, of the same size; pixel values are label ids.
            residual: RMS reprojection error of the camera's landmarks, fraction of the image side.
            repeats: How often the sample occurs in an epoch, 1..`MAX_REPEATS`.

        Raises:
            UserError: If the name is unsafe, does not end in `.png` or is already used, or a value
                is invalid.
        """
        layout.check_name(name)
        if not name.endswith(layout.SUFFIX):
            raise UserError(f"image name {name} must end in {layout.SUFFIX}")
        if name in self._labels:
            raise UserError(f"two images of {self.path} are named {name}; names must be unique")
        assert len(camera) == NUM_CAMERA_VALUES, len(camera)
        given = {"camera_residuals": residual, "repeats": repeats, "attributes": attributes}
        for key, value in given.items():
            is_valid, allowed = VALUE_RULES[key]
            if value is not None and not is_valid(value):
                raise UserError(f"{key} of {name}: {value}; use {allowed}")
        self._labels[name] = [float(value) for value in camera]
        record: dict[str, Any] = {"camera": self._labels[name]}
        for key, value in {"captions": caption, **given}.items():
            is_default = value is None or value in ("", {}) or (key == "repeats" and value == 1)
            if not is_default:
                self._known[key][name] = record[_RECORD_KEYS[key]] = value
        self._container.add(name, image_png, mask_png, record)

    def describe(self, preparation: Mapping[str, Any]) -> None:
        """Set the description of the preparation in `dataset.json`; any JSON values."""
        self._preparation = dict(preparation)

    def __enter__(self) -> "DatasetWriter":
        folder, name = self.path.parent, self.path.name
        lock = folder / f".{name}.lock"
        with ExitStack() as stack:
            refusal = f"another process is already writing {self.path}"
            stack.enter_context(file_lock(lock, refusal))
            stack.callback(lock.unlink, missing_ok=True)
            remove_leftovers(folder, name)
            self._check_target()
            atomic = atomic_file if self._is_zip else atomic_folder
            self._container = self._open_container(stack.enter_context(atomic(self.path)))
            stack.push(self._finish)
            self._exits = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._exits.__exit__(*error)

    def _check_target(self) -> None:
        path = self.path
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
        if not self._overwrite:
            raise UserError(f"output {path} already exists; remove it or set overwrite=true")
        # Never delete anything but a dataset because of a mistyped path.
        is_dataset = path.is_file() if self._is_zip else (path / layout.INDEX_NAME).is_file()
        if not is_dataset:
            raise UserError(f"output {path} is not a dataset and will not be overwritten")
        ours = {layout.INDEX_NAME, layout.SHARD_FOLDER, "images", "masks"}
        strangers = set() if self._is_zip else {entry.name for entry in path.iterdir()} - ours
        if strangers:
            raise UserError(
                f"output {path} contains other files than a dataset, first {min(strangers)}, and "
                "will not be overwritten"
            )

    def _open_container(self, path: Path) -> Container:
        if self._is_zip:
            return ZipContainer(path)
        if self._shard_size is not None:
            return ShardContainer(path, self._shard_size)
        return FolderContainer(path)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._container.finish(json.dumps(self._make_index()).encode())
                self._container.close()
        finally:
            # A zip writes its directory even when abandoned, possibly on a full disk.
            with suppress(OSError):
                self._container.close()

    def _make_index(self) -> dict[str, Any]:
        optional = {**self._known, "preparation": self._preparation}
        return {
            "label_set": self._label_set.name,
            "label_set_version": self._label_set.version,
            "camera_convention": CAMERA_CONVENTION,
            "labels": list(self._labels.items()),
            "captions": optional.pop("captions"),
            **{key: value for key, value in optional.items() if value},
        }
