"""2-D convolution joined with FIR upsampling or downsampling."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

from torch_utils.ops.upfirdn2d import (
    Padding,
    downsample_padding,
    read_padding,
    upfirdn2d,
    upsample_padding,
)


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
    """Upsample, convolve and downsample, with the cheapest order of equivalent steps.

    Args:
        filter: Low-pass filter for both resamplings, made by `setup_filter`; None is the identity.
        up: Upsampling factor.
        down: Downsampling factor.
        padding: Zeros around the upsampled image, as in `upfirdn2d`; resampling adds its own.
        groups: Number of channel groups of the convolution.
        flip_weight: True correlates, as convolution layers usually do; False convolves.
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
    return F.conv2d(x, weight, stride=stride, padding=padding, groups=groups)


def _transposed(
    x: Tensor, weight: Tensor, pads: Padding, *, up: int, groups: int, flip_weight: bool
) -> tuple[Tensor, Padding]:
    """Insert zeros and convolve as one transposed convolution.

    Returns:
        The result, and the padding that remains to be applied to it.
    """
    if flip_weight:
        weight = weight.flip([2, 3])
    # A transposed convolution lists the channels that it reads first, within each group.
    out_channels, in_per_group, height, width = weight.shape
    weight = weight.reshape(groups, out_channels // groups, in_per_group, height, width)
    weight = weight.transpose(1, 2).reshape(-1, out_channels // groups, height, width)
    pads = pads.plus(Padding(1 - width, up - width, 1 - height, up - height))
    # What is cropped on both sides anyway is not computed in the first place.
    crop_x, crop_y = max(min(-pads.x0, -pads.x1), 0), max(min(-pads.y0, -pads.y1), 0)
    crop = (crop_y, crop_x)
    if _has_slow_weight_gradient(x, weight):
        x = _StridedConvolution.apply(x, weight, up, crop, groups, True)
    else:
        x = F.conv_transpose2d(x, weight, stride=up, padding=crop, groups=groups)
    return x, pads.plus(Padding(crop_x, crop_x, crop_y, crop_y))


def _has_slow_weight_gradient(x: Tensor, weight: Tensor) -> bool:
    is_channels_last = x.is_contiguous(memory_format=torch.channels_last)
    is_recorded = torch.is_grad_enabled() and weight.requires_grad
    on_cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    is_eager = not torch.compiler.is_compiling()
    return on_cpu and is_eager and is_recorded and is_channels_last and not x.is_contiguous()


class _StridedConvolution(Function):
    """A convolution, or a transposed one, of a channels-last image on a CPU.

    Channels-last is the fastest layout for it and for the gradient of the image, but two to three
    times as slow as the other one for the gradient of strided weights.
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
        if ctx.needs_input_grad[0]:
            grad_x = _convolution_gradient(ctx, grad, x, weight, [True, False, False])[0]
        if ctx.needs_input_grad[1]:
            x = x.contiguous()
            grad_weight = _convolution_gradient(ctx, grad, x, weight, [False, True, False])[1]
        return grad_x, grad_weight, None, None, None, None


def _convolution_gradient(
    ctx, grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]
) -> tuple[Tensor | None, ...]:
    return torch.ops.aten.convolution_backward(grad, x, weight, None, *ctx.options, wanted)
