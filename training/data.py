"""Portraits with label map, camera and caption: data set, endless sampler, batch stream."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mate3d.cameras import mirror_camera
from mate3d.errors import UserError
from mate3d.labels import LabelSet, load_label_map
from training.dataset_io import open_dataset


class PortraitDataset(Dataset):
    """Samples of a data set on disk (format: datasets/README.md), in the order of their names.

    An item is a dict: `image` uint8 [3, H, W], `label_map` uint8 [H, W], `camera` float32 [25],
    `caption` str ("" if there is none).

    Args:
        path: Folder or zip archive.
        resolution: Side of the items; None keeps the files' own. Images are reduced with an
            antialiased bicubic filter, label maps by nearest neighbour.
        with_flips: Append a mirrored copy of every sample, with left and right labels and the
            camera exchanged accordingly; captions stay as they are.

    Raises:
        UserError: If the data set is incomplete or malformed; a damaged file shows when it is read.
    """

    def __init__(
        self, path: str | Path, *, resolution: int | None = None, with_flips: bool = False
    ):
        self._files, self._index = open_dataset(path)
        self._with_flips = with_flips
        self._file_resolution = self._decode_image(self._index.names[0]).width
        self.resolution = self._file_resolution if resolution is None else resolution
        if not 0 < self.resolution <= self._file_resolution:
            raise UserError(
                f"resolution {resolution} does not fit data set {path} of "
                f"{self._file_resolution} px images; use 1..{self._file_resolution}"
            )
        cameras = torch.from_numpy(self._index.cameras)
        mirrored = [mirror_camera(cameras)] if with_flips else []
        self._cameras = torch.cat([cameras, *mirrored])

    @property
    def label_set(self) -> LabelSet:
        """Meaning of the label ids."""
        return self._index.label_set

    @property
    def camera_labels(self) -> Tensor:  # [N, 25]
        """Cameras of all items, mirrored copies included."""
        return self._cameras

    def __len__(self) -> int:
        return len(self._cameras)

    def __getitem__(self, index: int) -> dict[str, Any]:
        num_files = len(self._index.names)
        assert 0 <= index < len(self), index
        file_index = index % num_files
        name = self._index.names[file_index]
        image = self._read_image(name)
        label_map = self._read_label_map(name)
        size = (self.resolution, self.resolution)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
            label_map = np.array(Image.fromarray(label_map).resize(size, Image.Resampling.NEAREST))
        pixels = np.array(image)
        if index >= num_files:
            permutation = np.array(self.label_set.mirror_permutation(), dtype=np.uint8)
            pixels, label_map = pixels[:, ::-1], permutation[label_map[:, ::-1]]
        return {
            "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            "label_map": torch.from_numpy(np.ascontiguousarray(label_map)),
            "camera": self._cameras[index],
            "caption": self._index.captions[file_index],
        }

    def _decode_image(self, name: str) -> Image.Image:
        where = self._files.where(f"images/{name}")
        content = self._files.read(f"images/{name}")
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise UserError(f"image {where} is not a readable PNG: {error}") from None
        if image.mode != "RGB":
            raise UserError(f"image {where} has mode {image.mode}; use 8-bit RGB")
        return image

    def _read_image(self, name: str) -> Image.Image:
        image = self._decode_image(name)
        self._check_size(f"image {self._files.where(f'images/{name}')}", image.size)
        return image

    def _read_label_map(self, name: str) -> np.ndarray:  # [H, W] uint8
        where = self._files.where(f"masks/{name}")
        label_map = load_label_map(
            _NamedFile(self._files.read(f"masks/{name}"), where), self.label_set
        )
        self._check_size(f"mask {where}", (label_map.shape[1], label_map.shape[0]))
        return label_map

    def _check_size(self, what: str, size: tuple[int, int]) -> None:
        side = self._file_resolution
        if size != (side, side):
            raise UserError(
                f"{what} is {size[0]} x {size[1]} px; all images and masks of a data set must be "
                f"square and of one size, here {side} x {side}"
            )


class _NamedFile(io.BytesIO):
    """File content in memory that error messages call by its name."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name


class InfiniteSampler(Sampler[int]):
    """Indices without end, each epoch a new permutation that depends on seed and epoch only.

    Args:
        num_items: Size of the data set.
        seed: Seed of the permutations.
        position: Number of indices, over all replicas, that are already used.
        rank: This process's number among the replicas.
        num_replicas: Processes that share the sequence; each takes every `num_replicas`-th index.
    """

    def __init__(
        self,
        num_items: int,
        *,
        seed: int = 0,
        position: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
    ):
        assert num_items > 0 and 0 <= rank < num_replicas, (num_items, rank, num_replicas)
        self._num_items = num_items
        self._seed = seed
        self._start = position + rank
        self._step = num_replicas

    def __iter__(self) -> Iterator[int]:
        position = self._start
        while True:
            epoch, offset = divmod(position, self._num_items)
            order = np.random.default_rng((self._seed, epoch)).permutation(self._num_items)
            for index in order[offset :: self._step]:
                yield int(index)
                position += self._step


class BatchStream(Iterator[dict[str, Any]]):
    """Batches without end that know their position, so that a resumed run sees the same ones.

    Tensors of the items are stacked, captions come as a list.

    Args:
        loader: Batches of a data set drawn by an `InfiniteSampler`.
        state: Seed, position and data set size at which the loader starts.
        num_replicas: Processes that share the sequence.
    """

    def __init__(self, loader: DataLoader, state: dict[str, int], *, num_replicas: int = 1):
        self._batches = iter(loader)
        self._state = dict(state)
        self._num_replicas = num_replicas

    def state_dict(self) -> dict[str, int]:
        """Return what `make_loader` needs to go on after the last batch that was handed out."""
        return dict(self._state)

    def __next__(self) -> dict[str, Any]:
        try:
            batch = next(self._batches)
        except UserError as error:
            # A worker's exception arrives wrapped in its traceback, the message on the last line.
            message = str(error).splitlines()[-1]
            raise UserError(message.removeprefix("mate3d.errors.UserError: ")) from None
        self._state["position"] += len(batch["image"]) * self._num_replicas
        return batch


def make_loader(
    dataset: PortraitDataset,
    *,
    batch_size: int,
    seed: int = 0,
    state: dict[str, int] | None = None,
    num_workers: int = 0,
    rank: int = 0,
    num_replicas: int = 1,
) -> BatchStream:
    """Return an endless stream of shuffled batches.

    Args:
        dataset: What to draw from.
        batch_size: Items of a batch in this process.
        seed: Seed of the order, unless `state` is given.
        state: `BatchStream.state_dict()` of an earlier stream, to go on from there.
        num_workers: Processes that read files; 0 reads in this one.
        rank: This process's number among the replicas.
        num_replicas: Processes that share the sequence.

    Raises:
        UserError: If `state` is of a data set of another size.
    """
    state = state or {"seed": seed, "position": 0, "num_items": len(dataset)}
    if state["num_items"] != len(dataset):
        raise UserError(
            f"cannot resume: the run used a data set of {state['num_items']} items, "
            f"this one has {len(dataset)}"
        )
    sampler = InfiniteSampler(
        len(dataset),
        seed=state["seed"],
        position=state["position"],
        rank=rank,
        num_replicas=num_replicas,
    )
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
    return BatchStream(loader, state, num_replicas=num_replicas)
