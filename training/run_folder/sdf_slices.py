"""Slices through the signed distances of one head, of the whole head and of each part."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mate3d.labels import LabelSet
from mate3d.outputs.visualize import colorize_distance, make_image_grid, to_uint8
from mate3d.rendering.field import Field

_SEARCH_RESOLUTION = 32
_CHUNK_POINTS = 65536
_GAP = 4
_LINE_HEIGHT = 14
_FONT_SIZE = 11
_BACKGROUND = (255, 255, 255)
_INK = (31, 41, 55)
# Cells are about twice as wide as high; more columns than rows would be hard to read.
_CELLS_PER_COLUMN = 1.5


@torch.no_grad()
def draw_sdf_slices(
    field: Field,
    label_set: LabelSet,
    *,
    box_size: float,
    resolution: int,
    scale: float,
) -> Tensor:  # [3, H, W] in [-1, 1]
    """Draw a horizontal, a frontal and a sagittal slice through each distance of a head.

    The whole head is cut at the middle of the box, and each part where its distance is smallest,
    so that parts away from the middle, such as ears, are cut too. The first slice is seen from
    above with the face down, the second from the front, the third from the side with the face to
    the right. For colours see `colorize_distance`; slices through parts also show the outline of
    the whole head.

    Args:
        field: One head.
        box_size: Side of the cube, centred at the origin, in world units.
        resolution: Side of a slice in pixels.
        scale: Distance at which colours are full.
    """
    names = ("whole", *label_set.class_names)
    colors = (_INK, *label_set.palette)
    centers = _innermost_points(field, box_size)
    cells = []
    for index, (name, color, center) in enumerate(zip(names, colors, centers, strict=True)):
        points = slice_points(center, box_size, resolution)
        distances = _distances(field, points.view(1, -1, 3)).view(3, 1, resolution, resolution, -1)
        tiles = colorize_distance(
            distances[..., index], scale=scale, outline=distances[..., 0] if index else None
        )
        cells.append(_draw_cell(name, color, center.tolist(), to_uint8(tiles)))
    columns = max(round((len(cells) / _CELLS_PER_COLUMN) ** 0.5), 1)
    sheet = torch.stack([torch.from_numpy(np.array(cell)) for cell in cells]).permute(0, 3, 1, 2)
    # Inverted twice, because the grid fills empty cells with black.
    return -make_image_grid(1 - sheet.float() / 127.5, columns)


def slice_points(
    center: Tensor,  # [3], world
    box_size: float,
    resolution: int,
) -> Tensor:  # [3, resolution, resolution, 3], world
    """Return the pixel centres of the slices across y, z and x of `draw_sdf_slices`."""
    axis = _axis(box_size, resolution).to(center)
    down, right = torch.meshgrid(axis, axis, indexing="ij")
    x, y, z = (value.expand_as(down) for value in center)
    return torch.stack(
        [
            torch.stack([right, y, down], dim=-1),
            torch.stack([right, -down, z], dim=-1),
            torch.stack([x, -down, right], dim=-1),
        ]
    )


def _axis(box_size: float, resolution: int) -> Tensor:  # [resolution], world
    return ((torch.arange(resolution) + 0.5) / resolution - 0.5) * box_size


def _innermost_points(field: Field, box_size: float) -> Tensor:  # [1 + K, 3], world
    """Return the middle of the box, then the point of smallest distance of each part.

    A part with the same distance everywhere does not exist; it gets the middle too.
    """
    axis = _axis(box_size, _SEARCH_RESOLUTION).to(field.device)
    points = torch.cartesian_prod(axis, axis, axis)
    distances = _distances(field, points[None])[0]
    innermost = points[distances.argmin(dim=0)]
    innermost[distances.amin(dim=0) == distances.amax(dim=0)] = 0.0
    innermost[0] = 0.0
    return innermost


def _distances(
    field: Field,
    points: Tensor,  # [1, N, 3]
) -> Tensor:  # [1, N, 1 + K]
    """Return the distances of the whole head and of the parts."""
    parts = [field.sample(part) for part in points.split(_CHUNK_POINTS, dim=1)]
    return torch.cat([torch.cat([one.sdf, one.class_sdf], dim=-1) for one in parts], dim=1)


def _draw_cell(
    name: str,
    color: tuple[int, int, int],
    center: list[float],
    tiles: np.ndarray,  # [3, R, R, 3] uint8
) -> Image.Image:
    side = tiles.shape[1]
    # The same margin around and between the tiles.
    width, height = 3 * side + 4 * _GAP, 2 * _LINE_HEIGHT + side + 2 * _GAP
    cell = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(cell)
    font = ImageFont.load_default(size=_FONT_SIZE)
    swatch = _LINE_HEIGHT - 4
    draw.rectangle((_GAP, _GAP + 2, _GAP + swatch, _GAP + swatch + 2), fill=color, outline=_INK)
    draw.text((swatch + 2 * _GAP, _GAP), name, fill=_INK, font=font)
    x, y, z = center
    texts = (f"y {y:+.2f}", f"z {z:+.2f}", f"x {x:+.2f}")
    for index, (tile, text) in enumerate(zip(tiles, texts, strict=True)):
        left = _GAP + index * (side + _GAP)
        draw.text((left, _GAP + _LINE_HEIGHT), text, fill=_INK, font=font)
        cell.paste(Image.fromarray(tile), (left, _GAP + 2 * _LINE_HEIGHT))
    return cell
