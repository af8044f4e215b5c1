"""Preview of a dataset: rows of images, each with their coloured masks below."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mate3d.labels import colorize_label_map
from mate3d.outputs.visualize import make_image_grid, resize_nearest
from training.data.dataset import PortraitDataset

_COLUMNS = 6
_ROWS = 4
_MAX_TILE = 160


def make_preview(path: Path) -> Tensor:  # [3, H, W] in [-1, 1]
    """Return a grid of up to 24 evenly spaced samples of a dataset."""
    dataset = PortraitDataset(path)
    count = min(_COLUMNS * _ROWS, len(dataset))
    batch = dataset.read_batch(np.linspace(0, len(dataset) - 1, count).astype(int).tolist())
    images = batch["image"].float() / 127.5 - 1
    masks = colorize_label_map(batch["label_map"], dataset.label_set)
    tile = min(_MAX_TILE, dataset.resolution)
    images = torch.nn.functional.interpolate(images, (tile, tile), mode="area")
    masks = resize_nearest(masks, tile)
    columns = min(_COLUMNS, count)
    rows = [
        make_image_grid(pictures[first : first + columns], columns)
        for first in range(0, count, columns)
        for pictures in (images, masks)
    ]
    return torch.cat(rows, dim=1)
