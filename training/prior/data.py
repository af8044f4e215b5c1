"""Training data of the prior: images, coloured label maps and captions."""

import logging
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, default_collate

from mate3d.cameras import view_normals
from mate3d.errors import UserError
from mate3d.label_conversion import find_conversion
from mate3d.labels import LabelSet
from mate3d.procedural.portraits import CAT, PERSON, PortraitKind, make_portraits
from torch_utils.batch_random import BatchRandom
from training.data.dataset import Item, PortraitDataset
from training.data.format.layout import IMAGE_FOLDER, MASK_FOLDER
from training.data.loader import MAX_UNREADABLE

_RENDER_BATCH = 32
_SEPARATORS = re.compile(r",? (?:with|wearing) |, (?:and )?")
_ARTICLE = re.compile(r"^(?:an?|the) ")
_logger = logging.getLogger(__name__)


def joint_palette(label_sets: Sequence[LabelSet]) -> Tensor:  # [K, 3] uint8
    """Return the colours of the classes of several label sets, one after the other."""
    colors = [color for label_set in label_sets for color in label_set.palette]
    return torch.tensor(colors, dtype=torch.uint8)


def make_control_image(
    label_map: Tensor,  # [B, H, W] integer in 0..K-1
    palette: Tensor,  # [K, 3] uint8
) -> Tensor:  # [B, 3, H, W] in 0..1
    """Colour a label map for the ControlNet: palette colours in 0..1."""
    return palette.to(label_map.device)[label_map.long()].permute(0, 3, 1, 2) / 255


@dataclass
class DatasetPart(Dataset):
    """A range of the images of one dataset, with its classes numbered from `first_class`."""

    source: PortraitDataset
    indices: range
    first_class: int = 0

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Item:
        item, skipped = self.source.read_or_replace(self.indices[index], MAX_UNREADABLE)
        for entry in skipped:
            _logger.warning("skipped a sample: %s", entry.reason)
        label_map = item["label_map"] + self.first_class
        return item | {"label_map": label_map, "is_own": not skipped}


class CaptionedDatasets(ConcatDataset):
    """Datasets with captions as one, whose label sets may differ.

    An item is that of `PortraitDataset`, with the classes of all datasets numbered one after the
    other, and `is_own`, which is False if another replaces it because it is unreadable. The last
    images of each dataset can be held out, to measure a prior with them.

    Args:
        paths: The datasets.
        resolution: Side of the items.
        num_held_out: Images of each dataset that are not items.

    Raises:
        UserError: If a dataset is missing, malformed or too small, or captions are missing.
    """

    def __init__(self, paths: Sequence[str], resolution: int, *, num_held_out: int = 0):
        self.resolution = resolution
        self.sources = [PortraitDataset(path, resolution=resolution) for path in paths]
        for source in self.sources:
            _require_captions(source)
            if num_held_out >= len(source):
                raise UserError(
                    f"quality_samples={num_held_out} must be less than the {len(source)} images"
                    f" of dataset {source.path}"
                )
        self.label_sets = [source.label_set for source in self.sources]
        self.palette = joint_palette(self.label_sets)
        first_classes = accumulate((each.num_classes for each in self.label_sets), initial=0)
        super().__init__(
            DatasetPart(source, range(len(source) - num_held_out), first)
            for source, first in zip(self.sources, first_classes, strict=False)
        )

    @property
    def captions(self) -> list[str]:
        """Captions of all items."""
        return [text for part in self.datasets for text in part.source.captions[: len(part)]]

    def stamps(self) -> Iterator[object]:
        """Yield values that change if an image or a label map does."""
        for part in self.datasets:
            index, label_set = part.source.index, part.source.label_set
            yield label_set.name, label_set.version, part.first_class, len(part)
            yield index.repeats.tolist()
            for folder, name in product((IMAGE_FOLDER, MASK_FOLDER), index.names):
                yield part.source.files.stamp(folder + name)

    def splits(self) -> Iterator[tuple[DatasetPart, DatasetPart]]:
        """Yield the items and the held-out images of each dataset, in its own classes."""
        for part in self.datasets:
            rest = range(len(part), len(part.source))
            yield DatasetPart(part.source, part.indices), DatasetPart(part.source, rest)

    def examples(self, count: int) -> "CaptionedImages":
        """Return the first images of all datasets in turn, `count` in all."""
        starts = [0, *self.cumulative_sizes[:-1]]
        rows = [start + row for row in range(count) for start in starts]
        return load_images(self, [row % len(self) for row in rows[:count]])


def _require_captions(dataset: PortraitDataset) -> None:
    captions = dataset.index.captions
    num_empty = sum(not caption.strip() for caption in captions)
    if num_empty:
        raise UserError(
            f"dataset {dataset.path} has no caption for {num_empty} of {len(captions)} images; add"
            f" them with prepare_data dataset=packed data={dataset.path} output=NEW and either"
            " captions=FILE, caption_source=labels, or caption_source=model captioning.model=FOLDER"
        )


@dataclass
class CaptionedImages:
    """Images held in memory."""

    images: Tensor  # [N, 3, H, W] uint8
    label_maps: Tensor  # [N, H, W] uint8
    captions: list[str]


def load_images(dataset: Dataset, rows: Sequence[int] | None = None) -> CaptionedImages:
    """Read some or all images of a dataset."""
    rows = range(len(dataset)) if rows is None else rows
    batch = default_collate([dataset[row] for row in rows])
    return CaptionedImages(batch["image"], batch["label_map"], batch["caption"])


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 images to [-1, 1]."""
    return images.float() / 127.5 - 1


def make_normal_maps(
    num: int,
    resolution: int,
    seed: int,
    label_sets: Sequence[LabelSet],
) -> tuple[Tensor, Tensor]:  # [num, 3, H, W] uint8, [num, H, W] uint8
    """Render normal maps of procedural heads, coloured as distillation encodes them, and labels.

    Args:
        label_sets: Those of the datasets, which the heads are taken from in turn. The labels are
            numbered as in `CaptionedDatasets`.
    """
    normals = [torch.empty(0, 3, resolution, resolution)]
    label_maps = [torch.empty(0, resolution, resolution, dtype=torch.uint8)]
    first_class = 0
    for number, label_set in enumerate(label_sets):
        kind = _kind_of(label_set)
        conversion = find_conversion(kind.label_set, label_set)
        seeds = range(seed + number, seed + num, len(label_sets))
        for start in range(0, len(seeds), _RENDER_BATCH):
            part = seeds[start : start + _RENDER_BATCH]
            portraits = make_portraits(kind, part, resolution, supersampling=1)
            render = portraits.render
            normals.append(view_normals(render.normals, portraits.camera).clamp(-1, 1))
            labels = conversion.apply(render.label_map.numpy().astype(np.uint8))
            label_maps.append(torch.from_numpy(labels) + first_class)
        first_class += label_set.num_classes
    images = (torch.cat(normals) * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    return images, torch.cat(label_maps)


def _kind_of(label_set: LabelSet) -> PortraitKind:
    return CAT if label_set.name.startswith("cat") else PERSON


def class_weights(
    label_maps: Tensor,  # [N, H, W] integer in 0..K-1
    num_classes: int,
    exponent: float,
) -> Tensor:  # [K]
    """Weight each class by its frequency to the power of `-exponent`; the mean over pixels is 1."""
    frequency = torch.bincount(label_maps.flatten().int(), minlength=num_classes).float()
    frequency /= frequency.sum()
    weights = torch.where(frequency > 0, frequency.clamp(min=1e-6) ** -exponent, 0.0)
    return weights / (frequency * weights).sum()


def caption_phrases(caption: str) -> list[str]:
    """Return the phrases of a caption: who it is, and each part without its article.

    For example, "a white and grey cat with a pink nose and blue eyes, white background" has "a
    white and grey cat", "pink nose", "blue eyes" and "white background".
    """
    subject, *parts = _SEPARATORS.split(caption.strip())
    # "and" in the subject joins adjectives.
    phrases = [phrase for part in parts for phrase in part.split(" and ")]
    phrases = [_ARTICLE.sub("", phrase.strip()) for phrase in phrases]
    return [subject, *filter(None, phrases)]


def possible_captions(captions: Collection[str], phrase_share: float) -> set[str]:
    """Return everything that `draw_captions` can return for some captions."""
    phrases = {phrase for caption in captions for phrase in caption_phrases(caption)}
    return {"", *captions, *(phrases if phrase_share > 0 else ())}


def draw_captions(
    captions: Sequence[str], *, dropout: float, phrase_share: float, random: BatchRandom
) -> list[str]:
    """Return the captions, some replaced by one of their phrases and some by the empty one.

    Args:
        dropout: Share of empty captions.
        phrase_share: Share of phrases among the others.
        random: Draws for each caption.
    """
    chances = random.rand((len(captions), 3)).tolist()
    drawn = []
    for caption, (empty, phrase, which) in zip(captions, chances, strict=True):
        if phrase < phrase_share:
            phrases = caption_phrases(caption)
            caption = phrases[int(which * len(phrases))]
        drawn.append("" if empty < dropout else caption)
    return drawn
