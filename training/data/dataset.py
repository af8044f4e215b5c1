"""The dataset of portraits with label map, camera and caption."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from mate3d.cameras import mirror_camera
from mate3d.errors import UserError
from mate3d.image_errors import DECODING_ERRORS
from mate3d.label_files import load_label_map
from training.data.format import NamedContent, open_dataset
from training.data.format.layout import IMAGE_FOLDER, MASK_FOLDER

Item = dict[str, Any]

# Images tried to find the resolution; reasons listed in an error.
_MAX_PROBES = 100
_NUM_LISTED = 3


class Unreadable(NamedTuple):
    """A skipped sample."""

    name: str
    reason: str  # one line that includes the file


class PortraitDataset(Dataset):
    """Samples of a dataset on disk (format: datasets/README.md), in order of name.

    An item is a dict: `image` uint8 [3, H, W], `label_map` uint8 [H, W], `camera` float32 [25],
    `caption` str ("" if there is none). A sample with `repeats` r gives r items.

    Args:
        path: Folder, zip archive, folder of tar shards, or the URL of such a folder.
        resolution: Side of the items; None keeps that of the files. Images are downscaled with an
            antialiased bicubic filter, label maps with nearest neighbour.
        with_flips: Append a mirrored copy of every item, with labels and camera mirrored too;
            captions are unchanged.

    Raises:
        UserError: If the dataset is incomplete or malformed. Damaged files are detected only when
            read.
    """

    def __init__(
        self, path: str | Path, *, resolution: int | None = None, with_flips: bool = False
    ):
        self.path = str(path)
        self.files, self.index = open_dataset(path)
        self.label_set = self.index.label_set
        self.with_flips = with_flips
        self._file_resolution = self._find_file_resolution()
        self.resolution = self._file_resolution if resolution is None else resolution
        if not 0 < self.resolution <= self._file_resolution:
            raise UserError(
                f"resolution={resolution} for dataset {path} with {self._file_resolution} px "
                f"images; use 1..{self._file_resolution}"
            )
        cameras = torch.from_numpy(self.index.cameras)
        self._sample_cameras = torch.stack([cameras, mirror_camera(cameras)])
        self._samples = np.repeat(np.arange(len(self.index.names)), self.index.repeats)
        self._mirror = np.array(self.label_set.mirror_permutation(), dtype=np.uint8)

    @property
    def camera_labels(self) -> Tensor:  # [N, 25]
        """Cameras of all items, including repeated and mirrored ones."""
        cameras = self._sample_cameras[: 1 + self.with_flips, torch.from_numpy(self._samples)]
        return cameras.flatten(0, 1)

    @property
    def captions(self) -> list[str]:
        """Captions of all items."""
        captions = [self.index.captions[sample] for sample in self._samples]
        return captions * (1 + self.with_flips)

    def __len__(self) -> int:
        return len(self._samples) * (1 + self.with_flips)

    def __getitem__(self, index: int) -> Item:
        sample, is_mirrored = self._locate(index)
        name = self.index.names[sample]
        image, mask = (self.files.read(folder + name) for folder in (IMAGE_FOLDER, MASK_FOLDER))
        return self.decode(sample, image, mask, is_mirrored=is_mirrored)

    def read_batch(self, positions: Iterable[int]) -> dict[str, Any]:
        """Return items as a batch: tensors are stacked, captions are a list."""
        return default_collate([self[position] for position in positions])

    def read_or_replace(self, index: int, max_unreadable: int) -> tuple[Item, list[Unreadable]]:
        """Return an item, or the next readable one, and the samples skipped for it.

        Raises:
            UserError: If more than `max_unreadable` samples in a row cannot be read.
        """
        positions = ((index + step) % len(self) for step in range(len(self)))
        attempts = (
            (self.index.names[self._locate(position)[0]], partial(self.__getitem__, position))
            for position in positions
        )
        return first_readable(attempts, max_unreadable)

    def decode(
        self, sample: int, image_png: bytes, mask_png: bytes, *, is_mirrored: bool = False
    ) -> Item:
        """Return the item of sample number `sample` (in order of name) from its files.

        Raises:
            UserError: If a file is damaged or does not fit the dataset.
        """
        name = self.index.names[sample]
        image = self._open_image(name, image_png, self._file_resolution)
        label_map = self._read_label_map(name, mask_png)
        size = (self.resolution, self.resolution)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
            label_map = np.array(Image.fromarray(label_map).resize(size, Image.Resampling.NEAREST))
        if is_mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            label_map = np.take(self._mirror, label_map[:, ::-1])
        # Channel by channel is twice as fast as interleaving and splitting them again.
        channels = np.array([np.asarray(channel) for channel in image.split()])
        return {
            "image": torch.from_numpy(channels),
            "label_map": torch.from_numpy(label_map),
            "camera": self._sample_cameras[int(is_mirrored), sample],
            "caption": self.index.captions[sample],
        }

    def _locate(self, index: int) -> tuple[int, bool]:
        assert 0 <= index < len(self), index
        is_mirrored, position = divmod(index, len(self._samples))
        return int(self._samples[position]), bool(is_mirrored)

    def _find_file_resolution(self) -> int:
        """Return the side of the first readable, square image."""
        errors = []
        for name in self.index.names[:_MAX_PROBES]:
            try:
                return self._open_image(name, self.files.read(IMAGE_FOLDER + name), None).width
            except UserError as error:
                errors.append(error)
        raise errors[0]

    def _open_image(self, name: str, content: bytes, side: int | None) -> Image.Image:
        where = self.files.where(IMAGE_FOLDER + name)
        try:
            with Image.open(NamedContent(content, where)) as image:
                image.load()
        except DECODING_ERRORS as error:
            raise UserError(f"image {where} is not a readable image: {error}") from None
        if image.mode != "RGB":
            raise UserError(f"image {where} has mode {image.mode}; use 8-bit RGB")
        _check_size(f"image {where}", image.size, side or image.width)
        return image

    def _read_label_map(self, name: str, content: bytes) -> np.ndarray:  # [H, W] uint8
        where = self.files.where(MASK_FOLDER + name)
        label_map = load_label_map(NamedContent(content, where), self.label_set)
        _check_size(f"mask {where}", label_map.shape[::-1], self._file_resolution)
        return label_map


def _check_size(what: str, size: tuple[int, ...], side: int) -> None:
    if size != (side, side):
        raise UserError(
            f"{what} is {size[0]} x {size[1]} px; all images and masks of this dataset must be "
            f"{side} x {side}"
        )


def first_readable(
    attempts: Iterable[tuple[str, Callable[[], Item]]], max_unreadable: int
) -> tuple[Item, list[Unreadable]]:
    """Return the item of the first successful attempt, and the samples skipped for it.

    Args:
        attempts: Name of each sample, and a function that reads it.
        max_unreadable: Maximum number of different samples that may fail.

    Raises:
        UserError: If more samples fail, or all.
    """
    skipped: dict[str, Unreadable] = {}
    for name, read in attempts:
        if name in skipped:
            continue
        try:
            return read(), list(skipped.values())
        except UserError as error:
            skipped[name] = Unreadable(name, str(error))
            require_few(list(skipped.values()), max_unreadable)
    raise UserError(f"no readable samples: {_describe(list(skipped.values()))}")


def require_few(unreadable: Sequence[Unreadable], max_unreadable: int) -> None:
    """Check the number of unreadable samples.

    Raises:
        UserError: If there are more than allowed; lists the first few.
    """
    if len(unreadable) > max_unreadable:
        raise UserError(f"{_describe(unreadable)}; more than max_unreadable={max_unreadable}")


def _describe(unreadable: Sequence[Unreadable]) -> str:
    reasons = "; ".join(entry.reason for entry in unreadable[:_NUM_LISTED])
    return f"cannot read {len(unreadable)} sample(s), first: {reasons}"
