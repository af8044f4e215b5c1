"""`upfirdn2d` as an operation of PyTorch's library; it is its own derivative."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.library import register_autograd

from torch_utils.ops._library import LIBRARY, register
from torch_utils.ops.resample import upfirdn2d


def _forward(x, filter, up_x, up_y, down_x, down_y, *padding_flip_gain) -> Tensor:
    *padding, flip_filter, gain = padding_flip_gain
    y = upfirdn2d(
        x,
        filter,
        up=[up_x, up_y],
        down=[down_x, down_y],
        padding=padding,
        flip_filter=flip_filter,
        gain=gain,
        impl="pytorch",
    )
    return y.contiguous(memory_format=_memory_format(x))


def _fake(x, filter, up_x, up_y, down_x, down_y, x0, x1, y0, y1, *_) -> Tensor:
    batch, channels, height, width = x.shape
    height = (height * up_y + y0 + y1 - filter.shape[0]) // down_y + 1
    width = (width * up_x + x0 + x1 - filter.shape[-1]) // down_x + 1
    y = x.new_empty(batch, channels, height, width)
    return y.contiguous(memory_format=_memory_format(x))


def _memory_format(x: Tensor) -> torch.memory_format:
    is_channels_last = x.is_contiguous(memory_format=torch.channels_last)
    if is_channels_last and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    """Keep for `backward` what it needs."""
    x, filter, *ctx.options = inputs
    ctx.save_for_backward(filter)
    ctx.in_size, ctx.out_size = x.shape[2:], output.shape[2:]


def backward(operation: Callable[..., Tensor], ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Return the gradients of all arguments, by the operation itself."""
    (filter,) = ctx.saved_tensors
    up_x, up_y, down_x, down_y, pad_x0, _, pad_y0, _, flip_filter, gain = ctx.options
    # The transposed map: decimation inserts zeros, convolution correlates, and the padding is what
    # makes input and output swap their sizes.
    before_x, before_y = filter.shape[-1] - 1 - pad_x0, filter.shape[0] - 1 - pad_y0
    (in_height, in_width), (out_height, out_width) = ctx.in_size, ctx.out_size
    after_x = in_width * up_x - out_width * down_x + pad_x0 - up_x + 1
    after_y = in_height * up_y - out_height * down_y + pad_y0 - up_y + 1
    pads = (before_x, after_x, before_y, after_y)
    grad = operation(grad, filter, down_x, down_y, up_x, up_y, *pads, not flip_filter, gain)
    return grad, *[None] * 11


register(
    "upfirdn2d(Tensor x, Tensor filter, int up_x, int up_y, int down_x, int down_y, "
    "SymInt pad_x0, SymInt pad_x1, SymInt pad_y0, SymInt pad_y1, bool flip_filter, "
    "float gain) -> Tensor",
    _forward,
    _fake,
)
register_autograd(
    "mate3d::upfirdn2d",
    partial(backward, torch.ops.mate3d.upfirdn2d),
    setup_context=save,
    lib=LIBRARY,
)
