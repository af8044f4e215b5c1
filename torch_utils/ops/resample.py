"""Image resampling: FIR filters, convolutions with up- or downsampling, resizing, blur."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

from torch_utils.ops.execution import Implementation, own_precision, wants_library
from torch_utils.ops.winograd import PaddedConvolution

# Shorter filters are faster as a single 2-D filter.
_MIN_SEPARABLE_TAPS = 8


class Padding(NamedTuple):
    """Zeros around an image; negative values crop."""

    x0: int
    x1: int
    y0: int
    y1: int

    def plus(self, other: "Padding") -> "Padding":
        """Return the elementwise sum."""
        return Padding(*(a + b for a, b in zip(self, other, strict=True)))


def setup_filter(
    taps: Sequence[float] | Sequence[Sequence[float]] | Tensor | float | None,
    *,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
    device: torch.device | str | None = None,
) -> Tensor:  # [w] if separable, else [h, w]
    """Make a filter tensor for the functions of this module.

    Args:
        taps: 1-D or 2-D taps, or a single number; None is the identity.
        normalize: Divide by the sum, so that a constant image keeps its value.
        flip_filter: Reverse the taps.
        gain: Factor on the image magnitude; each axis of a separable filter gets its square root.
        separable: Keep 1-D taps 1-D, to be applied along x, then y. None does so for 8 or more
            taps and uses the outer product of shorter ones.
    """
    filter = torch.as_tensor(1 if taps is None else taps, dtype=torch.float32)
    assert filter.ndim <= 2 and filter.numel() > 0, filter.shape
    if filter.ndim == 0:
        filter = filter[None]
    if separable is None:
        separable = filter.ndim == 1 and filter.numel() >= _MIN_SEPARABLE_TAPS
    if filter.ndim == 1 and not separable:
        filter = filter.outer(filter)
    assert filter.ndim == (1 if separable else 2), (filter.shape, separable)
    if normalize:
        filter = filter / filter.sum()
    if flip_filter:
        filter = filter.flip(list(range(filter.ndim)))
    return (filter * gain ** (filter.ndim / 2)).to(device, non_blocking=True)


def upfirdn2d(
    x: Tensor,  # [B, C, H, W]
    filter: Tensor | None,  # [h, w], or [w] for a separable filter
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: Implementation = "auto",
) -> Tensor:  # [B, C, H', W']
    """Insert zeros, pad, convolve and decimate each channel.

    The result has the dtype of `x`, even under autocast, and keeps a channels-last layout.
    Derivatives of all orders are exact, and the kernel is bitwise reproducible.

    Args:
        x: float64, float32, float16 or bfloat16.
        filter: Filter from `setup_filter`; None is the identity. Receives no gradient.
        up: Each sample is followed by `up - 1` zeros; one factor, or [x, y].
        down: Keep every `down`-th sample, starting with the first; one factor, or [x, y].
        padding: Zeros added after zero insertion, or samples cropped if negative; one number,
            [x, y], or [x before, x after, y before, y after].
        flip_filter: Correlate instead of convolving.
        gain: Factor on the result.
        impl: "pytorch" forces PyTorch operations.
    """
    assert x.ndim == 4, x.shape
    up, down, pads = _pair(up), _pair(down), read_padding(padding)
    if wants_library(x, impl):
        taps = x.new_ones(1, 1) if filter is None else filter
        taps = taps.to(x.device, torch.float64 if x.dtype is torch.float64 else torch.float32)
        return torch.ops.mate3d.upfirdn2d(x, taps, *up, *down, *pads, flip_filter, gain)
    kernel = x.new_ones(1, 1) if filter is None else filter.to(x)
    if flip_filter:
        kernel = kernel.flip(list(range(kernel.ndim)))
    with own_precision(x):
        if kernel.ndim == 2:
            return _resample(x, kernel * gain, up, down, pads)
        rows, columns = kernel[None], kernel[:, None] * gain
        x = _resample(x, rows, (up[0], 1), (down[0], 1), Padding(pads.x0, pads.x1, 0, 0))
        pads = Padding(0, 0, pads.y0, pads.y1)
        return _resample(x, columns, (1, up[1]), (1, down[1]), pads)


def _resample(
    x: Tensor,  # [B, C, H, W]
    kernel: Tensor,  # [h, w]
    up: tuple[int, int],
    down: tuple[int, int],
    pads: Padding,
) -> Tensor:  # [B, C, H', W']
    """Compute `upfirdn2d` with depthwise convolutions that skip inserted zeros and dropped samples.

    On a CPU, depthwise kernels are much faster than moving channels to the batch dimension.
    """
    channels = x.shape[1]
    if up == (1, 1):
        kernel = kernel.flip([0, 1]).repeat(channels, 1, 1, 1)
        x, own = _pad_all_but_common(x, pads)
        return F.conv2d(x, kernel, stride=down[::-1], padding=own, groups=channels)
    # A transposed convolution returns every sample that the input reaches; the padding determines
    # how many to crop or how many zeros to add.
    height, width = kernel.shape
    excess = Padding(
        width - 1 - pads.x0, width - up[0] - pads.x1, height - 1 - pads.y0, height - up[1] - pads.y1
    )
    own = (max(min(excess.y0, excess.y1), 0), max(min(excess.x0, excess.x1), 0))
    kernel = kernel.repeat(channels, 1, 1, 1)
    x = F.conv_transpose2d(x, kernel, stride=up[::-1], padding=own, groups=channels)
    rest = [own[1] - excess.x0, own[1] - excess.x1, own[0] - excess.y0, own[0] - excess.y1]
    return (F.pad(x, rest) if any(rest) else x)[:, :, :: down[1], :: down[0]]


def _pad_all_but_common(x: Tensor, pads: Padding) -> tuple[Tensor, tuple[int, int]]:
    """Apply the asymmetric part of a padding; return the (y, x) padding left for a convolution."""
    own = (max(min(pads.y0, pads.y1), 0), max(min(pads.x0, pads.x1), 0))
    rest = [pads.x0 - own[1], pads.x1 - own[1], pads.y0 - own[0], pads.y1 - own[0]]
    return (F.pad(x, rest) if any(rest) else x), own


def filter2d(
    x: Tensor,  # [B, C, H, W]
    filter: Tensor | None,  # [h, w], or [w] for a separable filter
    *,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:  # [B, C, H, W]
    """Filter an image, keeping its size apart from the extra `padding`."""
    width, height = _filter_size(filter)
    x0, x1, y0, y1 = read_padding(padding)
    pads = (x0 + width // 2, x1 + (width - 1) // 2, y0 + height // 2, y1 + (height - 1) // 2)
    return upfirdn2d(x, filter, padding=pads, flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: Tensor,  # [B, C, H, W]
    filter: Tensor | None,  # [h, w], or [w] for a separable filter
    *,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:  # [B, C, H * up, W * up]
    """Upsample an image by `up`, plus the extra `padding`; constants keep their value."""
    up_x, up_y = _pair(up)
    pads = read_padding(padding).plus(upsample_padding(filter, up))
    gain *= up_x * up_y
    return upfirdn2d(x, filter, up=up, padding=pads, flip_filter=flip_filter, gain=gain)


def upsample_padding(filter: Tensor | None, up: int | Sequence[int]) -> Padding:
    """Return the padding with which upsampling multiplies the size by exactly `up`."""
    (width, height), (up_x, up_y) = _filter_size(filter), _pair(up)
    return Padding(
        (width + up_x - 1) // 2, (width - up_x) // 2, (height + up_y - 1) // 2, (height - up_y) // 2
    )


def downsample_padding(filter: Tensor | None, down: int | Sequence[int]) -> Padding:
    """Return the padding with which downsampling divides the size by `down`."""
    (width, height), (down_x, down_y) = _filter_size(filter), _pair(down)
    return Padding(
        (width - down_x + 1) // 2,
        (width - down_x) // 2,
        (height - down_y + 1) // 2,
        (height - down_y) // 2,
    )


def _filter_size(filter: Tensor | None) -> tuple[int, int]:
    """Return width and height of a filter."""
    if filter is None:
        return 1, 1
    return filter.shape[-1], filter.shape[0]


def _pair(factor: int | Sequence[int]) -> tuple[int, int]:
    """Read a scale factor, one for both axes or [x, y]."""
    x, y = (factor, factor) if isinstance(factor, int) else factor
    assert x >= 1 and y >= 1, factor
    return x, y


def read_padding(padding: int | Sequence[int]) -> Padding:
    """Read a padding given as one number, [x, y] or [x0, x1, y0, y1]."""
    if isinstance(padding, int):
        return Padding(padding, padding, padding, padding)
    if len(padding) == 2:
        x, y = padding
        return Padding(x, x, y, y)
    return Padding(*padding)


def conv2d_resample(
    x: Tensor,  # [B, I, H, W]
    weight: Tensor,  # [O, I / groups, k, k]
    filter: Tensor | None = None,  # [h, w], or [w] for a separable filter
    *,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
) -> Tensor:  # [B, O, H * up / down, W * up / down] if padding is k // 2
    """Upsample, convolve and downsample, in the cheapest equivalent order.

    Args:
        filter: Low-pass filter for both resampling steps, from `setup_filter`; None is the
            identity.
        up: Upsampling factor.
        down: Downsampling factor.
        padding: Zeros around the upsampled image, as in `upfirdn2d`; resampling adds its own.
        groups: Number of convolution groups.
        flip_weight: True correlates, like most convolution layers; False convolves.
    """
    kernel = weight.shape[-1]
    pads = read_padding(padding)
    if up > 1:
        pads = pads.plus(upsample_padding(filter, up))
    if down > 1:
        pads = pads.plus(downsample_padding(filter, down))
    if up > 1:
        if kernel == 1 and down == 1:
            x = _convolve(x, weight, groups=groups, flip_weight=flip_weight)
            return upfirdn2d(x, filter, up=up, padding=pads, gain=up**2)
        x, pads = _transposed(x, weight, pads, up=up, groups=groups, flip_weight=flip_weight)
        x = upfirdn2d(x, filter, padding=pads, gain=up**2)
        return upfirdn2d(x, filter, down=down) if down > 1 else x
    if down > 1:
        if kernel == 1:
            x = upfirdn2d(x, filter, down=down, padding=pads)
            return _convolve(x, weight, groups=groups, flip_weight=flip_weight)
        x = upfirdn2d(x, filter, padding=pads)
        return _convolve(x, weight, stride=down, groups=groups, flip_weight=flip_weight)
    if pads.x0 == pads.x1 >= 0 and pads.y0 == pads.y1 >= 0:
        own = (pads.y0, pads.x0)
        return _convolve(x, weight, padding=own, groups=groups, flip_weight=flip_weight)
    return _convolve(F.pad(x, list(pads)), weight, groups=groups, flip_weight=flip_weight)


def _convolve(
    x: Tensor,
    weight: Tensor,
    *,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    groups: int,
    flip_weight: bool,
) -> Tensor:
    if not flip_weight and weight.shape[-1] > 1:
        weight = weight.flip([2, 3])
    if stride > 1 and _has_slow_weight_gradient(x, weight):
        return _StridedConvolution.apply(x, weight, stride, padding, groups, False)
    is_plain = (stride, padding, groups) == (1, (1, 1), 1) and _is_recorded_on_cpu(x, weight)
    if is_plain and suits_winograd(weight, math.gcd(*x.shape[2:])):
        return PaddedConvolution.apply(x, weight)
    return F.conv2d(x, weight, stride=stride, padding=padding, groups=groups)


def _transposed(
    x: Tensor, weight: Tensor, pads: Padding, *, up: int, groups: int, flip_weight: bool
) -> tuple[Tensor, Padding]:
    """Insert zeros and convolve, as one transposed convolution.

    Returns:
        The result, and the padding still to be applied.
    """
    if flip_weight:
        weight = weight.flip([2, 3])
    # Weights of a transposed convolution have the input channels first, within each group.
    out_channels, in_per_group, height, width = weight.shape
    weight = weight.reshape(groups, out_channels // groups, in_per_group, height, width)
    weight = weight.transpose(1, 2).reshape(-1, out_channels // groups, height, width)
    pads = pads.plus(Padding(1 - width, up - width, 1 - height, up - height))
    # Do not compute what would be cropped on both sides.
    crop_x, crop_y = max(min(-pads.x0, -pads.x1), 0), max(min(-pads.y0, -pads.y1), 0)
    crop = (crop_y, crop_x)
    if _has_slow_weight_gradient(x, weight):
        x = _StridedConvolution.apply(x, weight, up, crop, groups, True)
    else:
        x = F.conv_transpose2d(x, weight, stride=up, padding=crop, groups=groups)
    return x, pads.plus(Padding(crop_x, crop_x, crop_y, crop_y))


def _has_slow_weight_gradient(x: Tensor, weight: Tensor) -> bool:
    is_channels_last = x.is_contiguous(memory_format=torch.channels_last)
    is_recorded = _is_recorded_on_cpu(x, weight) and weight.requires_grad
    return is_recorded and is_channels_last and not x.is_contiguous()


def suits_winograd(weight: Tensor, side: int) -> bool:
    """Return whether a 3x3 convolution to an image on a CPU is faster by tiles."""
    is_large = min(weight.shape[:2]) >= 128 and side >= 64 and side % 4 == 0
    is_half = torch.is_autocast_enabled("cpu") or weight.itemsize < 4
    return is_large and weight.shape[-1] == 3 and not is_half


def _is_recorded_on_cpu(x: Tensor, weight: Tensor) -> bool:
    on_cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    is_recorded = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return on_cpu and is_recorded and not torch.compiler.is_compiling()


class _StridedConvolution(Function):
    """A strided or transposed convolution of a channels-last image on a CPU.

    Channels-last is the fastest layout for the result and for the image gradient, but two to three
    times slower than channels-first for the weight gradient.
    """

    @staticmethod
    def forward(ctx, x, weight, stride, padding, groups, is_transposed):
        ctx.save_for_backward(x, weight)
        ctx.options = ([stride] * 2, list(padding), [1, 1], is_transposed, [0, 0], groups)
        return torch.convolution(x, weight, None, *ctx.options)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        gradients = torch.ops.aten.convolution_backward
        if ctx.needs_input_grad[0]:
            wanted = [True, False, False]
            grad_x = gradients(grad, x, weight, None, *ctx.options, wanted)[0]
        if ctx.needs_input_grad[1]:
            wanted = [False, True, False]
            grad_weight = gradients(grad, x.contiguous(), weight, None, *ctx.options, wanted)[1]
        return grad_x, grad_weight, None, None, None, None


def resize_antialias(
    x: Tensor,  # [B, C, H, W]
    size: int,
) -> Tensor:  # [B, C, size, size]
    """Resize to a square with bilinear interpolation, antialiased when shrinking."""
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=True)


def blur_taps(sigma: float) -> Tensor:  # [2 * floor(3 * sigma) + 1]
    """Return the normalised taps 2^-(i / sigma)^2 for |i| <= 3 sigma.

    Args:
        sigma: Distance at which a tap is half the central one, in pixels; positive.
    """
    radius = math.floor(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    taps = torch.exp2(-((offsets / sigma) ** 2))
    return taps / taps.sum()


def blur_image(
    x: Tensor,  # [B, C, H, W]
    sigma: float,
) -> Tensor:  # [B, C, H, W]
    """Blur an image with zero padding, which is mid-grey for images in [-1, 1].

    Args:
        sigma: Distance at which the kernel drops to half, in pixels; no effect below 1/3.
    """
    if math.floor(3 * sigma) < 1:
        return x
    return filter2d(x, blur_taps(sigma).to(x.device, non_blocking=True))
