"""`upfirdn2d` as an operation of PyTorch's library; it is its own derivative."""

from typing import Any

import torch
from torch import Tensor

from torch_utils.ops._library import Operation
from torch_utils.ops.upfirdn2d import upfirdn2d


def _forward(
    x, filter, up_x, up_y, down_x, down_y, pad_x0, pad_x1, pad_y0, pad_y1, flip_filter, gain
) -> Tensor:
    y = upfirdn2d(
        x,
        filter,
        up=[up_x, up_y],
        down=[down_x, down_y],
        padding=[pad_x0, pad_x1, pad_y0, pad_y1],
        flip_filter=flip_filter,
        gain=gain,
        impl="pytorch",
    )
    return y.contiguous(memory_format=_memory_format(x))


def _fake(
    x, filter, up_x, up_y, down_x, down_y, pad_x0, pad_x1, pad_y0, pad_y1, flip_filter, gain
) -> Tensor:
    batch, channels, height, width = x.shape
    height = (height * up_y + pad_y0 + pad_y1 - filter.shape[0]) // down_y + 1
    width = (width * up_x + pad_x0 + pad_x1 - filter.shape[-1]) // down_x + 1
    y = x.new_empty(batch, channels, height, width)
    return y.contiguous(memory_format=_memory_format(x))


def _memory_format(x: Tensor) -> torch.memory_format:
    is_channels_last = x.is_contiguous(memory_format=torch.channels_last)
    if is_channels_last and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, filter, *ctx.options = inputs
    ctx.save_for_backward(filter)
    ctx.in_size, ctx.out_size = x.shape[2:], output.shape[2:]


def _backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (filter,) = ctx.saved_tensors
    up_x, up_y, down_x, down_y, pad_x0, _, pad_y0, _, flip_filter, gain = ctx.options
    # The transposed map: decimation inserts zeros, convolution correlates, and the padding is what
    # makes input and output swap their sizes.
    before_x, before_y = filter.shape[-1] - 1 - pad_x0, filter.shape[0] - 1 - pad_y0
    (in_height, in_width), (out_height, out_width) = ctx.in_size, ctx.out_size
    after_x = in_width * up_x - out_width * down_x + pad_x0 - up_x + 1
    after_y = in_height * up_y - out_height * down_y + pad_y0 - up_y + 1
    pads = (before_x, after_x, before_y, after_y)
    grad = ops.upfirdn2d(grad, filter, down_x, down_y, up_x, up_y, *pads, not flip_filter, gain)
    return grad, *[None] * 11


OPERATIONS = (
    Operation(
        "upfirdn2d(Tensor x, Tensor filter, int up_x, int up_y, int down_x, int down_y, "
        "SymInt pad_x0, SymInt pad_x1, SymInt pad_y0, SymInt pad_y1, bool flip_filter, "
        "float gain) -> Tensor",
        _forward,
        _fake,
        _save,
        _backward,
    ),
)
