"""The look-up in three planes and its derivatives by PyTorch's operations, without autograd.

The three functions have the arguments and results of the operations `torch.ops.mate3d.triplane_*`,
which they stand for where no kernel runs. With a `direction`, one displacement for each point and
plane, the weights of the pixels are replaced by their change along it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.precision import own_precision

# Points per piece on a CPU; the time hardly changes between 4096 and 16384.
CHUNK_POINTS = 16384


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of positions and of sums over values of a type."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def triplane_sample(
    table: Tensor,  # [B, 3, H, W, C]
    points: Tensor,  # [B, 3, N, 2]
    direction: Tensor | None,  # [B, 3, N, 2]
    mean: bool,
) -> Tensor:  # [B, N, C], or [B, 3, N, C] if not mean
    """Return weighted sums of the table's rows around each point."""
    batch, _, height, width, channels = table.shape
    grid = _Grid(height, width, with_mean=mean)
    rows = table.reshape(-1, channels).to(sum_dtype(table.dtype))
    values = rows.new_empty(batch * points.shape[2] * (1 if mean else 3), channels)
    with own_precision(table):
        for _, bags, corners in _chunks(points, direction, grid):
            weights = corners.weights()
            values[bags] = _weighted_rows(rows, corners.index, weights)
    values = values.to(table.dtype)
    if mean:
        return values.view(batch, -1, channels)
    return values.view(batch, -1, 3, channels).transpose(1, 2).contiguous()


def triplane_sample_table_grad(
    grad: Tensor,  # [B, N, C], or [B, 3, N, C] if not mean
    points: Tensor,  # [B, 3, N, 2]
    direction: Tensor | None,  # [B, 3, N, 2]
    height: int,
    width: int,
    mean: bool,
) -> Tensor:  # [B, 3, H, W, C], float32 for half types
    """Add the weighted rows of `grad` to the table's rows around each point."""
    batch, channels = len(grad), grad.shape[-1]
    grid = _Grid(height, width, with_mean=mean)
    rows = _as_rows(grad, mean)
    grad_table = rows.new_zeros(batch * 3 * height * width, channels)
    with own_precision(grad):
        for _, bags, corners in _chunks(points, direction, grid):
            weights = corners.weights()
            _scatter_rows(grad_table, rows[bags], corners.index, weights)
    return grad_table.view(batch, 3, height, width, channels)


def triplane_sample_points_grad(
    grad: Tensor,  # [B, N, C], or [B, 3, N, C] if not mean
    table: Tensor,  # [B, 3, H, W, C]
    points: Tensor,  # [B, 3, N, 2]
    direction: Tensor | None,  # [B, 3, N, 2]
    mean: bool,
) -> Tensor:  # [B, 3, N, 2]
    """Return the gradient of the points, or its change along a displacement of the points."""
    batch, _, height, width, channels = table.shape
    grid = _Grid(height, width, with_mean=mean)
    table = table.reshape(-1, channels).to(sum_dtype(table.dtype))
    rows = _as_rows(grad, mean)
    grad_points = points.new_empty(batch * points.shape[2], 3, 2)
    with own_precision(grad):
        for part, bags, corners in _chunks(points, direction, grid):
            if direction is None:
                slopes = corners.slopes()
                axes = [_dot_rows(table, corners.index, axis, rows[bags]) for axis in slopes]
                grad_points[part] = torch.stack(axes, dim=-1)
            else:
                # The weights are linear along each axis: only their mixed derivative remains.
                mixed = _dot_rows(table, corners.index, corners.mixed_derivatives(), rows[bags])
                grad_points[part] = corners.direction.flip(-1) * mixed[..., None]
    return grad_points.view(batch, -1, 3, 2).transpose(1, 2).contiguous()


def _as_rows(grad: Tensor, mean: bool) -> Tensor:  # -> [B * N, C] or [B * N * 3, C]
    """Return features as rows, those of a point's planes one after the other."""
    grad = grad if mean else grad.transpose(1, 2)
    return grad.reshape(-1, grad.shape[-1]).to(sum_dtype(grad.dtype))


@dataclass(frozen=True)
class _Grid:
    """Size of the planes in pixels, and whether a point's three planes are averaged."""

    height: int
    width: int
    with_mean: bool


class _Corners:
    """The four pixels around each point on each plane, and how their weights move with the point.

    The weight of a corner is the product of one factor for its row and one for its column, each
    linear in the position. Corners outside the plane have zero factors.
    """

    def __init__(
        self,
        points: Tensor,  # [R, 3, 2]
        direction: Tensor | None,  # [R, 3, 2]
        first_rows: Tensor,  # [R, 3]
        grid: _Grid,
    ):
        scale = 1 / 3 if grid.with_mean else 1
        column, self.factor_x, self.slope_x = _axis(points[..., 0], grid.width, scale)
        row, self.factor_y, self.slope_y = _axis(points[..., 1], grid.height, 1)
        row = [first_rows + r * grid.width for r in row]
        self.bag_size = 12 if grid.with_mean else 4
        self.index = self._bags([r + c for r in row for c in column])
        self.direction = direction

    def weights(self) -> Tensor:  # [bags, bag_size]
        """Return the weights, or their change for a displacement of the points."""
        if self.direction is None:
            return self._bags(_products(self.factor_y, self.factor_x))
        slopes_x = _products(self.factor_y, self.slope_x)
        slopes_y = _products(self.slope_y, self.factor_x)
        along_x, along_y = self.direction.unbind(-1)
        pairs = zip(slopes_x, slopes_y, strict=True)
        return self._bags([(along_x * x).addcmul_(along_y, y) for x, y in pairs])

    def slopes(self) -> tuple[Tensor, Tensor]:  # each [bags, bag_size]
        """Return the derivatives of the weights along x and along y."""
        slopes_x = self._bags(_products(self.factor_y, self.slope_x))
        return slopes_x, self._bags(_products(self.slope_y, self.factor_x))

    def mixed_derivatives(self) -> Tensor:  # [bags, bag_size]
        """Return the second derivatives of the weights, once along x and once along y."""
        return self._bags(_products(self.slope_y, self.slope_x))

    def _bags(self, corners: list[Tensor]) -> Tensor:
        return torch.stack(corners, dim=-1).view(-1, self.bag_size)


def _axis(
    position: Tensor, size: int, scale: float
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the pixel indices on both sides of positions, their factors and the slopes of those.

    Structure-of-arrays on purpose: operations on a last dimension of 2 are slow.
    """
    pixel = position * (size / 2) + (size / 2 - 0.5)
    low = pixel.floor()
    fraction = pixel - low
    low_inside = ((low >= 0) & (low < size)).to(pixel) * scale
    high_inside = ((low >= -1) & (low < size - 1)).to(pixel) * scale
    low = low.long()
    index = [low.clamp(0, size - 1), (low + 1).clamp_(0, size - 1)]
    factor = [(1 - fraction) * low_inside, fraction * high_inside]
    return index, factor, [low_inside * (-size / 2), high_inside * (size / 2)]


def _products(rows: list[Tensor], columns: list[Tensor]) -> list[Tensor]:
    return [row * column for row in rows for column in columns]


def _chunks(
    points: Tensor, direction: Tensor | None, grid: _Grid
) -> Iterator[tuple[slice, slice, _Corners]]:
    """Walk over the points in pieces whose temporaries stay in the processor's cache.

    Yields:
        The points and the bags of a piece, and the corners of the points.
    """
    num_images, _, per_image, _ = points.shape
    points = points.transpose(1, 2).reshape(-1, 3, 2)
    if direction is not None:
        direction = direction.transpose(1, 2).reshape(-1, 3, 2)
    plane_rows = grid.height * grid.width
    first_rows = torch.arange(num_images * 3, device=points.device).view(-1, 1, 3) * plane_rows
    first_rows = first_rows.expand(-1, per_image, -1).reshape(-1, 3)
    step = CHUNK_POINTS if points.device.type == "cpu" else max(len(points), 1)
    bags = 1 if grid.with_mean else 3
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        along = None if direction is None else direction[part]
        corners = _Corners(points[part], along, first_rows[part], grid)
        yield part, slice(start * bags, (start + step) * bags), corners


def _weighted_rows(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:  # [bags, C]
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weights)


def _scatter_rows(table: Tensor, rows: Tensor, index: Tensor, weights: Tensor) -> None:
    """Add each weighted row of `rows` [bags, C] to the table rows that `index` names.

    Sorting the indices turns the scatter into gathers, several times faster than `index_add_`.
    """
    key, order = index.flatten().sort()
    key, counts = key.unique_consecutive(return_counts=True)
    source = order.div(index.shape[1], rounding_mode="floor")
    sums = F.embedding_bag(
        source,
        rows,
        counts.cumsum(0) - counts,
        mode="sum",
        per_sample_weights=weights.flatten().index_select(0, order),
    )
    table.index_add_(0, key, sums)


def _dot_rows(table: Tensor, index: Tensor, weights: Tensor, rows: Tensor) -> Tensor:  # [R, 3]
    """Return the dot product of each plane's weighted table rows with its bag's row of `rows`."""
    planes = _weighted_rows(table, index.view(-1, 4), weights.view(-1, 4))
    planes = planes.view(len(rows), -1, table.shape[1])
    return torch.bmm(planes, rows[..., None]).view(-1, 3)
