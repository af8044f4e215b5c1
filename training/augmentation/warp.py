"""Resampling of transformed images, differentiable any number of times.

An image is upsampled twofold with an orthonormal wavelet filter, sampled bilinearly, and
downsampled with the reversed filter (ADA paper, appendix B). The filter is orthogonal to its even
shifts, so identity and integer shifts reproduce the image exactly; upsampling reduces blur and
aliasing of other transforms.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, FunctionCtx

from torch_utils.ops.execution import own_precision
from torch_utils.ops.resample import setup_filter, upfirdn2d

# Low-pass filter of the sym6 wavelet (Daubechies 1992, table 8.1), with sum sqrt(2) and norm 1.
SYM6 = (
    -0.007800708325034148,
    0.0017677118642428036,
    0.04472490177066578,
    -0.021060292512300564,
    -0.07263752278646252,
    0.3379294217276218,
    0.787641141030194,
    0.4910559419267466,
    -0.048311742585633,
    -0.11799011114819057,
    0.0034907120842174702,
    0.015404109327027373,
)
# Delay of the upsampled image, in its samples: the filter's centre of mass.
_DELAY = sum(i * tap for i, tap in enumerate(SYM6)) / sum(SYM6)
# Pixels beyond the edges used by the filters for an untransformed image.
_RIM = 3
# Pixels of padding needed to upsample image and rim.
_PADDING = 6


def warp(
    image: Tensor,  # [B, C, N, N]
    inverse: Tensor,  # [B, 3, 3], see `training.augmentation.geometry`
) -> Tensor:  # [B, C, N, N]
    """Transform images, with reflection beyond their edges.

    Derivatives of all orders with respect to the image are exact; the map receives none.
    """
    side = image.shape[-1]
    assert image.shape[-2] == side > 1, image.shape
    taps = setup_filter(SYM6, device=image.device)
    large = upfirdn2d(_reflect(image, _PADDING), taps, up=2, padding=[0, -1, 0, -1], gain=4)
    points = _sources(inverse, side).to(image.dtype)
    moved = _BilinearLookup.apply(large, 2 * points / (large.shape[-1] - 1) - 1)
    return upfirdn2d(moved, taps, down=2, flip_filter=True)


def _sources(
    inverse: Tensor,  # [B, 3, 3]
    side: int,
) -> Tensor:  # [B, M, M, 2], in samples of the upsampled image
    """Return the source positions of the samples before downsampling."""
    centre = (side - 1) / 2
    samples = torch.arange(2 * side + len(SYM6) - 2, dtype=inverse.dtype, device=inverse.device)
    place = ((samples - _DELAY) / 2 - centre) / side
    x, y = place[None, None, :], place[None, :, None]
    rows = inverse[:, :2, :, None, None]  # [B, 2, 3, 1, 1]
    source = torch.stack(
        [rows[:, i, 0] * x + rows[:, i, 1] * y + rows[:, i, 2] for i in range(2)], dim=-1
    )
    pixels = source * side + centre
    is_near = (pixels >= -_RIM) & (pixels <= side - 1 + _RIM)
    # The upsampled image starts one sample before the first that a pixel contributes to.
    return 2 * torch.where(is_near, pixels, _fold(pixels, side)) + _DELAY + 1


def _fold(pixels: Tensor, side: int) -> Tensor:
    """Reflect positions at the centres of the outermost pixels until they lie between them."""
    last = side - 1
    return last - (torch.remainder(pixels, 2 * last) - last).abs()


def _reflect(
    image: Tensor,  # [B, C, N, N]
    padding: int,
) -> Tensor:  # [B, C, N + 2 padding, N + 2 padding]
    """Pad an image by reflection, repeatedly if it is smaller than the padding."""
    while padding > 0:
        step = min(padding, image.shape[-1] - 1)
        image = F.pad(image, [step] * 4, mode="reflect")
        padding -= step
    return image


class _BilinearLookup(Function):
    """`grid_sample` as a linear map of the image; PyTorch before 2.12 has no second derivative."""

    @staticmethod
    def forward(ctx: FunctionCtx, image: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = image.shape
        with own_precision(image):
            return F.grid_sample(image, grid, padding_mode="border", align_corners=True)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _TransposedLookup.apply(grad, grid, ctx.shape), None


class _TransposedLookup(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, grad: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        unused = grad.new_zeros(()).expand(shape)
        bilinear, border, align_corners = 0, 1, True
        return torch.ops.aten.grid_sampler_2d_backward(
            grad, unused, grid, bilinear, border, align_corners, [True, False]
        )[0]

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _BilinearLookup.apply(grad, grid), None, None
