"""Portraits in memory with label maps and known numbers."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mate3d.cameras import unpack_camera
from mate3d.errors import UserError
from training.data.dataset import PortraitDataset
from training.data.format import DatasetIndex

# Numbers that vary less than this within the data are treated as constants.
_MIN_SPREAD = 1e-4


@dataclass
class Portraits:
    """Images of several datasets with their targets.

    Args:
        images: [N, 3, R, R] uint8.
        label_maps: [N, R, R] uint8.
        label_set: Index into `label_set_names`, [N].
        label_set_names: Names of the label sets, without repeats.
        attributes: Standardised numbers, [N, A]; NaN where an image lacks that attribute.
        attribute_names: A names; attributes of portraits begin with their label set.
    """

    images: Tensor
    label_maps: Tensor
    label_set: Tensor
    label_set_names: tuple[str, ...]
    attributes: Tensor
    attribute_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> "Portraits":
        rows = ("images", "label_maps", "label_set", "attributes")
        return replace(self, **{name: getattr(self, name)[index] for name in rows})


def load_portraits(paths: Sequence[str], resolution: int) -> Portraits:
    """Read whole datasets whose images have attributes.

    Raises:
        UserError: If there are no datasets, one has no attributes, or one cannot be read.
    """
    if not paths:
        raise UserError("data=[]; give at least one dataset")
    sets = [PortraitDataset(path, resolution=resolution) for path in paths]
    label_sets = tuple(dict.fromkeys(dataset.label_set.name for dataset in sets))
    items = [dataset[index] for dataset in sets for index in range(len(dataset))]
    rows = [row for dataset in sets for row in _number_rows(dataset)]
    names = tuple(sorted({name for row in rows for name in row}))
    values = torch.tensor([[row.get(name, math.nan) for name in names] for row in rows])
    values, is_varied = _standardize(values)
    return Portraits(
        images=torch.stack([item["image"] for item in items]),
        label_maps=torch.stack([item["label_map"] for item in items]),
        label_set=torch.cat(
            [torch.full((len(ds),), label_sets.index(ds.label_set.name)) for ds in sets]
        ),
        label_set_names=label_sets,
        attributes=values,
        attribute_names=tuple(n for n, flag in zip(names, is_varied, strict=True) if flag),
    )


def split_portraits(portraits: Portraits, held_out: float) -> tuple[Portraits, Portraits]:
    """Split into portraits for training, and every n-th one for evaluation.

    Args:
        held_out: Share for evaluation, in 0..0.5.
    """
    is_held_out = torch.arange(len(portraits)) % round(1 / held_out) == 0
    return portraits[~is_held_out], portraits[is_held_out]


def _number_rows(dataset: PortraitDataset) -> Iterator[dict[str, float]]:
    index: DatasetIndex = dataset.index
    if not all(index.attributes):
        raise UserError(f"dataset {dataset.path} has images without attributes (see datasets/)")
    cam2world, _ = unpack_camera(torch.from_numpy(index.cameras))
    views = cam2world[:, :3, 2].tolist()
    for attributes, view in zip(index.attributes, views, strict=True):
        row = {f"view.{axis}": number for axis, number in zip("xyz", view, strict=True)}
        for name, value in attributes.items():
            numbers = value if isinstance(value, list) else [value]
            for place, number in enumerate(numbers):
                suffix = f".{'rgb'[place]}" if len(numbers) == 3 else ""
                row[f"{dataset.label_set.name}.{name}{suffix}"] = number
        yield row


def _standardize(values: Tensor) -> tuple[Tensor, Tensor]:  # [N, A] -> [N, A'], [A] bool
    """Scale known values of every column to mean 0 and deviation 1; drop constant columns."""
    mean = values.nanmean(dim=0)
    spread = (values - mean).square().nanmean(dim=0).sqrt()
    is_varied = spread > _MIN_SPREAD
    return ((values - mean) / spread)[:, is_varied], is_varied
