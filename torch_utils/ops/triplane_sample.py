"""Twice-differentiable bilinear look-up in three feature planes.

PyTorch's `grid_sample` has no second derivative and reads one channel at a time. Here a plane is a
table with one row of features per pixel, and a look-up is a weighted sum of rows (an embedding
bag), which is also faster.

Determinism: values and gradients with respect to points are bitwise reproducible. On CUDA, the
gradient with respect to planes uses atomics, whose order varies between calls; under
`torch.use_deterministic_algorithms(True)` a slower sorted sum is used instead.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from torch_utils.ops._library import register
from torch_utils.ops.execution import Implementation, own_precision, wants_library

# Points per chunk on a CPU; the speed is about the same from 4096 to 16384.
CHUNK_POINTS = 16384


def triplane_sample(
    planes: Tensor,  # [B, 3, C, H, W]
    plane_points: Tensor,  # [B, 3, N, 2]
    *,
    impl: Implementation = "auto",
) -> Tensor:  # [B, N, C]
    """Look up features at points projected on three planes, and average over the planes.

    Values are bilinear between pixel centres and zero outside the planes. Both arguments have
    exact first and second derivatives; only the required gradients are computed. The result has
    the dtype of the planes, even under autocast. Positions, and sums over half-precision planes,
    are float32 (float64 for float64 planes).

    Args:
        planes: Feature planes: float64, float32, float16 or bfloat16.
        plane_points: (horizontal, vertical) position of each point on each plane; -1 and 1 are
            the outer edges of the border pixels.
        impl: "pytorch" forces PyTorch operations.
    """
    return look_up(*_prepare(planes, plane_points, impl))


def look_up(
    table: Tensor,  # [B, 3, H, W, C]
    points: Tensor,  # [B, 3, N, 2]
    ops: Any,
) -> Tensor:  # [B, N, C]
    """Compute `triplane_sample` with given operations, such as `torch.ops.mate3d`."""
    return _Values.apply(_TableLink.apply(table, (points,), ops), table, points, ops)


def triplane_sample_points_gradient(
    grad_features: Tensor,  # [B, N, C]
    planes: Tensor,  # [B, 3, C, H, W]
    plane_points: Tensor,  # [B, 3, N, 2]
    *,
    impl: Implementation = "auto",
) -> Tensor:  # [B, 3, N, 2]
    """Return the gradient at the points for a gradient at the features of `triplane_sample`.

    This is the transposed Jacobian of the look-up times `grad_features`, as autograd computes it
    for `plane_points`, but without the forward look-up. All three tensors receive exact gradients;
    second derivatives are not available.

    Args:
        grad_features: Gradient of a scalar with respect to the features.
        plane_points: Positions as in `triplane_sample`.
        impl: "pytorch" forces PyTorch operations.
    """
    table_points_ops = _prepare(planes, plane_points, impl)
    expected = (len(planes), plane_points.shape[2], planes.shape[2])
    assert grad_features.shape == expected, (grad_features.shape, expected)
    return _PointGradient.apply(grad_features.to(planes.dtype), *table_points_ops)


def _prepare(
    planes: Tensor, plane_points: Tensor, impl: Implementation
) -> tuple[Tensor, Tensor, Any]:  # [B, 3, H, W, C], [B, 3, N, 2], operations
    """Return the arguments of `look_up`; channels are copied unless they are contiguous."""
    assert planes.ndim == 5 and planes.shape[1] == 3, planes.shape
    expected = (len(planes), 3, *plane_points.shape[2:3], 2)
    assert plane_points.shape == expected, (plane_points.shape, planes.shape)
    ops = torch.ops.mate3d if wants_library(planes, impl) else PYTORCH
    table = planes.permute(0, 1, 3, 4, 2)
    # The kernels support strided rows, as in a channels-last image.
    is_fine = table.stride(-1) == 1 if table.is_cuda else table.is_contiguous()
    table = table if is_fine else table.contiguous()
    return table, plane_points.to(sum_dtype(planes.dtype)), ops


class _TableLink(Function):
    """Returns zeros; its gradient is the gradient of a look-up with respect to the table.

    Autograd runs this node only if the table's gradient is required. As part of `_Values`, the
    expensive scatter would also run for the gradient of the points (normals, eikonal loss). The
    points are passed in a tuple for the same reason: autograd must not see them as inputs.
    """

    @staticmethod
    def forward(ctx, table, held_points, ops: Any):
        ctx.held_points, ctx.ops = held_points, ops
        ctx.size, ctx.dtype = table.shape[2:4], table.dtype
        return table.new_zeros(1).expand(len(table), held_points[0].shape[2], table.shape[4])

    @staticmethod
    def backward(ctx, grad):
        grad_table = _TableGradient.apply(grad, *ctx.held_points, ctx.ops, ctx.size)
        return grad_table.to(ctx.dtype), None, None


class _Values(Function):
    """Look-up in the table; the table's gradient flows through `link`."""

    @staticmethod
    def forward(ctx, link, table, points, ops: Any):
        ctx.save_for_backward(table, points)
        ctx.ops = ops
        return ops.triplane_sample(table, points, None)

    @staticmethod
    def backward(ctx, grad):
        grad_points = None
        if ctx.needs_input_grad[2]:
            grad_points = _PointGradient.apply(grad, *ctx.saved_tensors, ctx.ops)
        return grad, None, grad_points, None


class _TableGradient(Function):
    """Gradient of a look-up with respect to the table: a scatter with the same weights."""

    @staticmethod
    def forward(ctx, grad, points, ops: Any, size):
        ctx.save_for_backward(grad, points)
        ctx.ops = ops
        return ops.triplane_sample_table_grad(grad, points, None, *size)

    @staticmethod
    def backward(ctx, grad_table):
        grad, points = ctx.saved_tensors
        grad_grad = grad_points = None
        if ctx.needs_input_grad[0]:
            grad_grad = look_up(grad_table, points, ctx.ops).to(grad.dtype)
        if ctx.needs_input_grad[1]:
            # Sums over half-precision features are wider than the features.
            grad = grad.to(grad_table.dtype)
            grad_points = _PointGradient.apply(grad, grad_table, points, ctx.ops)
        return grad_grad, grad_points, None, None


class _PointGradient(Function):
    """Gradient of a look-up with respect to the points; differentiable once."""

    @staticmethod
    def forward(ctx, grad, table, points, ops: Any):
        ctx.save_for_backward(grad, table, points)
        ctx.ops = ops
        return ops.triplane_sample_points_grad(grad, table, points, None)

    @staticmethod
    @once_differentiable
    def backward(ctx, direction):
        grad, table, points = ctx.saved_tensors
        ops = ctx.ops
        grad_grad = grad_table = grad_points = None
        if ctx.needs_input_grad[0]:
            grad_grad = ops.triplane_sample(table, points, direction)
        if ctx.needs_input_grad[1]:
            size = table.shape[2:4]
            grad_table = ops.triplane_sample_table_grad(grad, points, direction, *size)
            grad_table = grad_table.to(table.dtype)
        if ctx.needs_input_grad[2]:
            grad_points = ops.triplane_sample_points_grad(grad, table, points, direction)
        return grad_grad, grad_table, grad_points, None


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype for positions and for sums over values of a dtype."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def _sample(
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


def _table_grad(
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


def _points_grad(
    grad: Tensor,  # [B, N, C]
    table: Tensor,  # [B, 3, H, W, C]
    points: Tensor,  # [B, 3, N, 2]
    direction: Tensor | None,  # [B, 3, N, 2]
) -> Tensor:  # [B, 3, N, 2]
    """Return the gradient of the points, or its derivative along a displacement of the points."""
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
                # Weights are linear along each axis, so only the mixed derivative remains.
                mixed = _dot_rows(table, corners.index, corners.mixed_derivatives(), rows[part])
                grad_points[part] = corners.direction.flip(-1) * mixed[..., None]
    return grad_points.view(batch, -1, 3, 2).transpose(1, 2).contiguous()


def _as_rows(grad: Tensor) -> Tensor:  # -> [B * N, C]
    return grad.reshape(-1, grad.shape[-1]).to(sum_dtype(grad.dtype))


class _Corners:
    """The twelve pixels around each point, with their weights and derivatives.

    A corner's weight is the product of a row factor and a column factor, each linear in the
    position. Corners outside the plane have zero factors.
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
        """Return the weights, or their derivative along the displacement."""
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
        """Return the mixed second derivatives of the weights, d^2 / dx dy."""
        return _bags(_products(self.slope_y, self.slope_x))


def _bags(corners: list[Tensor]) -> Tensor:  # four of [R, 3] -> [R, 12]
    return torch.stack(corners, dim=-1).view(-1, 12)


def _axis(
    position: Tensor, size: int, scale: float
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the pixel indices on both sides of positions, their factors, and the slopes of those.

    Axes are separate tensors because operations on a last dimension of 2 are slow.
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
    """Yield chunks of points whose temporaries fit in the CPU cache."""
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
    """Add each weighted row of `rows` [R, C] to the table rows given by `index`.

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
    """Return the dot product of each plane's weighted table rows with the point's row."""
    planes = _weighted_rows(table, index.view(-1, 4), weights.view(-1, 4))
    planes = planes.view(len(rows), -1, table.shape[1])
    return torch.bmm(planes, rows[..., None]).view(-1, 3)


# A table holds the planes with channels last. With a direction, one displacement per point and
# plane, the weights of the look-up are replaced by their derivative along it.
PYTORCH = SimpleNamespace(
    triplane_sample=_sample,
    triplane_sample_table_grad=_table_grad,
    triplane_sample_points_grad=_points_grad,
)


def _fake_table(grad, points, direction, height, width) -> Tensor:
    dtype = sum_dtype(grad.dtype)
    return grad.new_empty((len(grad), 3, height, width, grad.shape[-1]), dtype=dtype)


register(
    "triplane_sample(Tensor table, Tensor points, Tensor? direction) -> Tensor",
    _sample,
    lambda table, points, _: table.new_empty(len(table), points.shape[2], table.shape[4]),
)
register(
    "triplane_sample_table_grad(Tensor grad, Tensor points, Tensor? direction, "
    "SymInt height, SymInt width) -> Tensor",
    _table_grad,
    _fake_table,
    deterministic=False,
)
register(
    "triplane_sample_points_grad(Tensor grad, Tensor table, Tensor points, "
    "Tensor? direction) -> Tensor",
    _points_grad,
    lambda grad, table, points, _: points.new_empty(points.shape),
)
