"""The look-up in three planes and its derivatives by PyTorch's operations, without autograd.

The three functions have the arguments and results of the operations `torch.ops.mate3d.triplane_*`,
which they stand for where no kernel runs. With a `direction`, one displacement for each point and
plane, the weights of the pixels are replaced by their change along it.
"""

from collections.abc import Iterator

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
) -> Tensor:  # [B, N, C]
    """Return weighted sums of the table's rows around each point."""
    batch, _, height, width, channels = table.shape
    rows = table.reshape(-1, channels).to(sum_dtype(table.dtype))
    values = rows.new_empty(batch * points.shape[2], channels)
    with own_precision(table):
        for part, corners in _chunks(points, direction, height, width):
            values[part] = _weighted_rows(rows, corners.index, corners.weights())
    return values.to(table.dtype).view(batch, -1, channels)


def triplane_sample_table_grad(
    grad: Tensor,  # [B, N, C]
    points: Tensor,  # [B, 3, N, 2]
    direction: Tensor | None,  # [B, 3, N, 2]
    height: int,
    width: int,
) -> Tensor:  # [B, 3, H, W, C], float32 for half types
    """Add the weighted rows of `grad` to the table's rows around each point."""
    batch, channels = len(grad), grad.shape[-1]
    rows = _as_rows(grad)
    grad_table = rows.new_zeros(batch * 3 * height * width, channels)
    with own_precision(grad):
        for part, corners in _chunks(points, direction, height, width):
            _scatter_rows(grad_table, rows[part], corners.index, corners.weights())
    return grad_table.view(batch, 3, height, width, channels)


def triplane_sample_points_grad(
    grad: Tensor,  # [B, N, C]
    table: Tensor,  # [B, 3, H, W, C]
    points: Tensor,  # [B, 3, N, 2]
    direction: Tensor | None,  # [B, 3, N, 2]
) -> Tensor:  # [B, 3, N, 2]
    """Return the gradient of the points, or its change along a displacement of the points."""
    batch, _, height, width, channels = table.shape
    table = table.reshape(-1, channels).to(sum_dtype(table.dtype))
    rows = _as_rows(grad)
    grad_points = points.new_empty(batch * points.shape[2], 3, 2)
    with own_precision(grad):
        for part, corners in _chunks(points, direction, height, width):
            if direction is None:
                slopes = corners.slopes()
                axes = [_dot_rows(table, corners.index, axis, rows[part]) for axis in slopes]
                grad_points[part] = torch.stack(axes, dim=-1)
            else:
                # The weights are linear along each axis: only their mixed derivative remains.
                mixed = _dot_rows(table, corners.index, corners.mixed_derivatives(), rows[part])
                grad_points[part] = corners.direction.flip(-1) * mixed[..., None]
    return grad_points.view(batch, -1, 3, 2).transpose(1, 2).contiguous()


def _as_rows(grad: Tensor) -> Tensor:  # -> [B * N, C]
    return grad.reshape(-1, grad.shape[-1]).to(sum_dtype(grad.dtype))


class _Corners:
    """The twelve pixels around each point, and how their weights move with the point.

    The weight of a corner is the product of one factor for its row and one for its column, each
    linear in the position. Corners outside the plane have zero factors.
    """

    def __init__(
        self,
        points: Tensor,  # [R, 3, 2]
        direction: Tensor | None,  # [R, 3, 2]
        first_rows: Tensor,  # [R, 3]
        height: int,
        width: int,
    ):
        column, self.factor_x, self.slope_x = _axis(points[..., 0], width, 1 / 3)
        row, self.factor_y, self.slope_y = _axis(points[..., 1], height, 1)
        row = [first_rows + r * width for r in row]
        self.index = _bags([r + c for r in row for c in column])
        self.direction = direction

    def weights(self) -> Tensor:  # [R, 12]
        """Return the weights, or their change for a displacement of the points."""
        if self.direction is None:
            return _bags(_products(self.factor_y, self.factor_x))
        slopes_x = _products(self.factor_y, self.slope_x)
        slopes_y = _products(self.slope_y, self.factor_x)
        along_x, along_y = self.direction.unbind(-1)
        pairs = zip(slopes_x, slopes_y, strict=True)
        return _bags([(along_x * x).addcmul_(along_y, y) for x, y in pairs])

    def slopes(self) -> tuple[Tensor, Tensor]:  # each [R, 12]
        """Return the derivatives of the weights along x and along y."""
        slopes_x = _bags(_products(self.factor_y, self.slope_x))
        return slopes_x, _bags(_products(self.slope_y, self.factor_x))

    def mixed_derivatives(self) -> Tensor:  # [R, 12]
        """Return the second derivatives of the weights, once along x and once along y."""
        return _bags(_products(self.slope_y, self.slope_x))


def _bags(corners: list[Tensor]) -> Tensor:  # four of [R, 3] -> [R, 12]
    return torch.stack(corners, dim=-1).view(-1, 12)


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
    points: Tensor, direction: Tensor | None, height: int, width: int
) -> Iterator[tuple[slice, _Corners]]:
    """Walk over the points in pieces whose temporaries stay in the processor's cache."""
    num_images, _, per_image, _ = points.shape
    points = points.transpose(1, 2).reshape(-1, 3, 2)
    if direction is not None:
        direction = direction.transpose(1, 2).reshape(-1, 3, 2)
    first_rows = torch.arange(num_images * 3, device=points.device) * (height * width)
    first_rows = first_rows.view(-1, 1, 3).expand(-1, per_image, -1).reshape(-1, 3)
    step = CHUNK_POINTS if points.device.type == "cpu" else max(len(points), 1)
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        along = None if direction is None else direction[part]
        yield part, _Corners(points[part], along, first_rows[part], height, width)


def _weighted_rows(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:  # [R, C]
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weights)


def _scatter_rows(table: Tensor, rows: Tensor, index: Tensor, weights: Tensor) -> None:
    """Add each weighted row of `rows` [R, C] to the table rows that `index` names.

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
