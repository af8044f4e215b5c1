"""Turn tensors and rendered views into images: colours, grids, contact sheets, files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mate3d.generator import RenderOutput
from mate3d.labels import LabelSet, colorize_label_map, save_label_map, segmentation_to_label_map
from mate3d.outputs.video import enlarge_for_video
from mate3d.rendering.renderer import RenderingConfig

# Anchor colours of a perceptually ordered map, yellow (near) to violet (far), in 0..1.
_DEPTH_COLORS = (
    (0.99, 0.91, 0.15),
    (0.48, 0.82, 0.32),
    (0.13, 0.57, 0.55),
    (0.23, 0.32, 0.55),
    (0.27, 0.00, 0.33),
)

# Colours of signed distances; the lines darken what they cover by a factor.
_INSIDE_COLOR = (0.13, 0.36, 0.76)
_OUTSIDE_COLOR = (0.93, 0.52, 0.16)
_LEVELS = 4
_LEVEL_SHADE = 0.85
_OUTLINE_SHADE = 0.6
# Maximum side of a tile; sheets are for a quick overview.
_TILE_SIDE = 256


def make_image_grid(
    images: Tensor,  # [B, C, H, W]
    columns: int,
) -> Tensor:  # [C, rows * H, columns * W]
    """Tile images row by row; missing tiles of the last row are black (-1)."""
    batch, channels, height, width = images.shape
    rows = -(-batch // columns)
    filler = images.new_full((rows * columns - batch, channels, height, width), -1.0)
    tiles = torch.cat([images, filler]).view(rows, columns, channels, height, width)
    return tiles.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)


def colorize_depth(
    depth: Tensor,  # [B, 1, H, W], world units
    *,
    near: float,
    far: float,
    opacity: Tensor | None = None,  # [B, 1, H, W], 0..1
) -> Tensor:  # [B, 3, H, W] in [-1, 1]
    """Map depth to colours, from bright at `near` to dark at `far`.

    Args:
        depth: Distance along the ray.
        near: Depth of the first colour; smaller depths get it too.
        far: Depth of the last colour; larger depths get it too.
        opacity: If given, empty pixels fade to black.
    """
    colors = torch.tensor(_DEPTH_COLORS, dtype=depth.dtype, device=depth.device)
    position = ((depth[:, 0] - near) / (far - near)).clamp(0, 1) * (len(colors) - 1)
    lower = position.floor().long().clamp(max=len(colors) - 2)
    share = (position - lower).unsqueeze(-1)
    mixed = torch.lerp(colors[lower], colors[lower + 1], share).permute(0, 3, 1, 2)
    if opacity is not None:
        mixed = mixed * opacity
    return mixed * 2 - 1


def colorize_normals(
    normals: Tensor,  # [B, 3, H, W], world, length <= 1
) -> Tensor:  # [B, 3, H, W] in [-1, 1]
    """Show (x, y, z) as (red, green, blue); empty pixels are mid-grey."""
    return normals.clamp(-1, 1)


def colorize_segmentation(
    segmentation: Tensor,  # [B, K, H, W]
    label_set: LabelSet,
) -> Tensor:  # [B, 3, H, W] in [-1, 1]
    """Colour each pixel by its highest-scoring class."""
    return colorize_label_map(segmentation_to_label_map(segmentation), label_set)


def overlay_colors(
    image: Tensor,  # [B, 3, H, W] in [-1, 1]
    colors: Tensor,  # [B, 3, H, W] in [-1, 1]
    share: float = 0.5,
) -> Tensor:  # [B, 3, H, W] in [-1, 1]
    """Overlay an image with the colours of its segmentation; `share` is their opacity."""
    return torch.lerp(image, colors, share)


def colorize_distance(
    distance: Tensor,  # [B, 1, H, W]
    *,
    scale: float,
    outline: Tensor | None = None,  # [B, 1, H, W], another distance
) -> Tensor:  # [B, 3, H, W] in [-1, 1]
    """Show signed distances: inside blue, outside orange, the zero level as a black line.

    Args:
        distance: Signed distance in any unit; non-finite values are black.
        scale: Distance with full colour; fine lines mark each quarter of it.
        outline: Another distance whose zero level is drawn as a grey line.
    """
    position = (distance / scale).clamp(-1, 1)
    sides = torch.tensor((_INSIDE_COLOR, _OUTSIDE_COLOR), dtype=distance.dtype)
    inside, outside = sides.to(distance.device).view(2, 1, 3, 1, 1)
    # A minimum of colour, so that the sides differ even right at the surface.
    strength = 0.3 + 0.7 * position.abs()
    colors = torch.lerp(
        torch.ones_like(inside), torch.where(position < 0, inside, outside), strength
    )
    levels = (position * _LEVELS).floor()
    shade = torch.where(_changes(levels), _LEVEL_SHADE, 1.0)
    if outline is not None:
        shade = torch.where(_changes((outline < 0).to(shade)), _OUTLINE_SHADE, shade)
    is_black = _changes((distance < 0).to(shade)) | ~distance.isfinite()
    return torch.where(is_black, 0.0, colors * shade) * 2 - 1


def _changes(
    values: Tensor,  # [B, 1, H, W]
) -> Tensor:  # [B, 1, H, W] bool
    """Return which pixels differ from the pixel below or to the right."""
    changed = torch.zeros_like(values, dtype=torch.bool)
    changed[..., :-1, :] |= values[..., :-1, :] != values[..., 1:, :]
    changed[..., :, :-1] |= values[..., :, :-1] != values[..., :, 1:]
    return changed


def resize_nearest(
    images: Tensor,  # [B, C, H, W]
    resolution: int,
) -> Tensor:  # [B, C, resolution, resolution]
    """Resize by nearest neighbour, which introduces no new values."""
    return F.interpolate(images, size=(resolution, resolution), mode="nearest")


def to_uint8(
    image: Tensor,  # [..., C, H, W] in [-1, 1]
) -> np.ndarray:  # [..., H, W, C] uint8
    """Convert to 8 bits as EG3D does: x * 127.5 + 128, clamped."""
    levels = (image.detach().float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    return levels.movedim(-3, -1).cpu().numpy()


def save_image(
    path: str | Path,
    image: Tensor,  # [C, H, W] in [-1, 1], C = 1 or 3
) -> None:
    """Write one image in the format of the suffix of `path`."""
    pixels = to_uint8(image)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)


@dataclass(frozen=True)
class PictureMaker:
    """Turns views into images.

    Args:
        label_set: Gives the colours of the segmentation.
        rendering: Its near and far are the ends of the depth colours, so that a colour means the
            same depth in all images of a run.
        resolution: Side of the generator's images; smaller images are enlarged to it.
    """

    label_set: LabelSet
    rendering: RenderingConfig
    resolution: int

    def save(self, path: Path, kind: str, output: RenderOutput) -> None:
        """Write one view as PNG; a segmentation becomes a palette PNG of label ids."""
        if kind == "segmentation":
            label_map = segmentation_to_label_map(output.segmentation)
            save_label_map(path, label_map[0].cpu().numpy(), self.label_set)
            return
        picture = self._draw(kind, output)
        # Depth and normals keep the rendered values: pixels are repeated, not interpolated.
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
    """Write the rendered depth as a NumPy file, [h, w] float32 in world units."""
    with path.open("wb") as file:
        np.save(file, output.depth[0, 0].cpu().numpy().astype(np.float32))


def _resize(picture: Tensor, side: int, is_smooth: bool) -> Tensor:
    if picture.shape[-1] == side:
        return picture
    if not is_smooth:
        return resize_nearest(picture, side)
    return F.interpolate(picture, size=(side, side), mode="bicubic", antialias=True)


class ContactSheet:
    """Tiles in rows and columns; only full rows are filled.

    Args:
        max_tiles: Maximum number of tiles; later ones are left out.
    """

    def __init__(self, columns: int, max_tiles: int):
        self.columns = columns
        self.capacity = max_tiles // columns * columns
        self._tiles: list[Tensor] = []

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another tile."""
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
