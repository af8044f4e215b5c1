"""A rendered view as pictures: files of single views, frames of videos, tiles of sheets."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mate3d.generator import RenderOutput
from mate3d.labels import LabelSet, save_label_map, segmentation_to_label_map
from mate3d.outputs.video import enlarge_for_video
from mate3d.outputs.visualize import (
    colorize_depth,
    colorize_normals,
    colorize_segmentation,
    make_image_grid,
    resize_nearest,
    save_image,
    to_uint8,
)
from mate3d.rendering.renderer import RenderingConfig

# Sheets are for looking through; a tile is no larger than this.
_TILE_SIDE = 256


@dataclass(frozen=True)
class PictureMaker:
    """Turns views into pictures.

    Args:
        label_set: Colours of the segmentation.
        rendering: Its near and far are the ends of the depth colours, so that a colour means the
            same depth in each picture of a run.
        resolution: Side of the generator's images; smaller pictures are enlarged to it.
    """

    label_set: LabelSet
    rendering: RenderingConfig
    resolution: int

    def save(self, path: Path, kind: str, output: RenderOutput) -> None:
        """Write one view as PNG: a segmentation as palette PNG of label ids, others as seen."""
        if kind == "segmentation":
            label_map = segmentation_to_label_map(output.segmentation)
            save_label_map(path, label_map[0].cpu().numpy(), self.label_set)
            return
        picture = self._draw(kind, output)
        # Depth and normals keep the rendered values: pixels are repeated, not mixed.
        side = max(self.resolution, picture.shape[-1])
        picture = resize_nearest(picture, side)[0]
        save_image(path, picture[:1] if kind == "opacity" else picture)

    def frame(self, kind: str, output: RenderOutput) -> np.ndarray:  # [H, W, 3] uint8
        """Return one view as a frame of a video."""
        is_smooth = kind != "segmentation"
        picture = _resize(self._draw(kind, output), self.resolution, is_smooth)
        return to_uint8(enlarge_for_video(picture, is_smooth=is_smooth)[0])

    def tile(self, kind: str, output: RenderOutput) -> Tensor:  # [1, 3, h, w] in -1..1
        """Return one view as a tile of a contact sheet."""
        side = min(self.resolution, _TILE_SIDE)
        return _resize(self._draw(kind, output), side, kind != "segmentation")

    def _draw(self, kind: str, output: RenderOutput) -> Tensor:  # [1, 3, H, W] in -1..1
        draw: dict[str, Callable[[], Tensor]] = {
            "image": lambda: output.image,
            "segmentation": lambda: colorize_segmentation(output.segmentation, self.label_set),
            "depth": lambda: colorize_depth(
                output.depth,
                near=self.rendering.near,
                far=self.rendering.far,
                opacity=output.opacity,
            ),
            "normals": lambda: colorize_normals(output.normals),
            "opacity": lambda: (output.opacity * 2 - 1).expand(-1, 3, -1, -1),
        }
        return draw[kind]()


def save_depth_values(path: Path, output: RenderOutput) -> None:
    """Write the rendered depth, [h, w] float32 in world units, as a NumPy file."""
    with path.open("wb") as file:
        np.save(file, output.depth[0, 0].cpu().numpy().astype(np.float32))


def _resize(picture: Tensor, side: int, is_smooth: bool) -> Tensor:
    if picture.shape[-1] == side:
        return picture
    if not is_smooth:
        return resize_nearest(picture, side)
    return functional.interpolate(picture, size=(side, side), mode="bicubic", antialias=True)


class ContactSheet:
    """Tiles in rows and columns, as many full rows as fit a number of tiles.

    Args:
        columns: Tiles a row.
        max_tiles: Later ones are left out.
    """

    def __init__(self, columns: int, max_tiles: int):
        self.columns = columns
        self.capacity = max_tiles // columns * columns
        self._tiles: list[Tensor] = []

    @property
    def is_full(self) -> bool:
        """Whether there is no place for another tile."""
        return len(self._tiles) >= self.capacity

    def add(
        self,
        tile: Tensor,  # [1, 3, h, w]
    ) -> None:
        """Add the next tile, row by row."""
        assert not self.is_full
        self._tiles.append(tile.cpu())

    def save(self, path: Path) -> None:
        """Write the sheet; the tiles missing from its last row are black."""
        save_image(path, make_image_grid(torch.cat(self._tiles), self.columns))
