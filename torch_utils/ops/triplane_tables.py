"""Many look-ups in the same tri-planes without gradients: tables and corners are made once.

`triplane_sample` serves training. Rendering looks the same points up in texture and in shape
planes, and often decides between the two whether the second look-up is worth it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Corners:
    """The twelve pixels around points on three planes, and their shares of the mean.

    Args:
        index: Rows of a table, [M, 12], int32.
        weights: [M, 12]; zero for pixels outside of a plane.
    """

    index: Tensor
    weights: Tensor

    def take(self, chosen: Tensor) -> "Corners":  # [M'] -> of M' points
        """Return the corners of some of the points."""
        return Corners(self.index.index_select(0, chosen), self.weights.index_select(0, chosen))


def make_table(
    planes: Tensor,  # [B, 3, C, H, W]
) -> Tensor:  # [B * 3 * H * W, C]
    """Return planes with one row of features a pixel."""
    return planes.permute(0, 1, 3, 4, 2).reshape(-1, planes.shape[2])


def find_corners(
    points: Tensor,  # [B, N, 3], -1..1 inside the planes
    plane_axes: Sequence[tuple[int, int]],  # (horizontal, vertical) of each plane
    size: tuple[int, int],
) -> Corners:  # of B * N points
    """Return where points fall in a table of `make_table`.

    Args:
        points: In units of half a plane.
        plane_axes: See `mate3d.rendering.triplane`.
        size: Height and width of the planes.

    Raises:
        ValueError: If the table has more rows than an int32 can count.
    """
    height, width = size
    num_images, per_image = points.shape[:2]
    plane_rows = height * width
    if 3 * num_images * plane_rows >= 2**31:
        raise ValueError(f"{num_images} heads of {height} x {width} pixels are too many at once")
    columns = {axis: _axis(points[..., axis], width, 1 / 3) for axis, _ in plane_axes}
    lines = {axis: _axis(points[..., axis], height, 1.0) for _, axis in plane_axes}
    shape = (num_images, per_image, 12)
    index = torch.empty(shape, dtype=torch.int32, device=points.device)
    weights = torch.empty(shape, dtype=points.dtype, device=points.device)
    first = torch.arange(num_images, dtype=torch.int32, device=points.device)[:, None]
    first = first * (3 * plane_rows)
    corner = 0
    for plane, (horizontal, vertical) in enumerate(plane_axes):
        for line, line_factor in lines[vertical]:
            start = line * width + (first + plane * plane_rows)
            for column, column_factor in columns[horizontal]:
                torch.add(start, column, out=index[..., corner])
                torch.mul(line_factor, column_factor, out=weights[..., corner])
                corner += 1
    return Corners(index.view(-1, 12), weights.view(-1, 12))


def look_up(
    table: Tensor,  # [rows, C]
    corners: Corners,
) -> Tensor:  # [M, C]
    """Return the mean of the bilinear look-ups in three planes; zero outside of them."""
    return F.embedding_bag(
        corners.index, table, mode="sum", per_sample_weights=corners.weights.to(table.dtype)
    )


def _axis(
    position: Tensor,  # [B, N]
    size: int,
    scale: float,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the pixels on both sides of positions, each with its share."""
    pixel = position * (size / 2) + (size / 2 - 0.5)
    # Far outside all pixels are, and an int32 cannot hold every number.
    low = pixel.clamp(-2, size + 1).floor()
    fraction = pixel - low
    low_share = (1 - fraction) * ((low >= 0) & (low < size)) * scale
    high_share = fraction * ((low >= -1) & (low < size - 1)) * scale
    low = low.int()
    return (low.clamp(0, size - 1), low_share), ((low + 1).clamp_(0, size - 1), high_share)
