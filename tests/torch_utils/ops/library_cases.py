"""Inputs for the operations with kernels, and their comparison with plain formulas.

The same checks serve PyTorch's operations, the loops over the kernels' arithmetic that the
compiled library holds for tests (`torch.ops.mate3d_host`), and the kernels (`torch.ops.mate3d`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference import ops as formulas
from torch_utils.ops.bias_act import BiasAct
from torch_utils.ops.triplane_sample import look_up

# Of the largest magnitude in a tensor.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}
DTYPES = tuple(TOLERANCES)
LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "offset")

BIAS_ACT_CASES = [
    {"slope": slope, "gain": gain, "clamp": clamp, "with_bias": with_bias}
    for slope in (1.0, 0.2)
    for gain, clamp, with_bias in ((2**0.5, None, True), (1.5, 0.8, True), (1.0, None, False))
]

UPFIRDN2D_CASES = [
    # Those with a 4 x 4 filter and equal factors have a kernel of their own.
    {"up": 1, "down": 1, "padding": (1, 2, 2, 1), "filter": (4, 4)},
    {"up": 2, "down": 1, "padding": (2, 1, 2, 1), "filter": (4, 4), "gain": 4},
    {"up": 2, "down": 1, "padding": (3, 2, 1, -1), "filter": (4, 4), "flip_filter": True},
    {"up": 1, "down": 2, "padding": (1, 1, 1, 1), "filter": (4, 4)},
    {"up": 1, "down": 2, "padding": (-2, 1, 0, -1), "filter": (4, 4), "flip_filter": True},
    {"up": 2, "down": 1, "padding": (2, 1, 2, 1), "filter": (4,), "gain": 4},
    {"up": 1, "down": 1, "padding": (5, 6, 7, 4), "filter": (4,)},
    {"up": 1, "down": 1, "padding": 0, "filter": (1, 1)},
    {"up": 2, "down": 2, "padding": (2, 3, 1, 4), "filter": (4, 4)},
    {"up": (3, 2), "down": (2, 1), "padding": (2, 1, 3, 0), "filter": (5, 3)},
    {"up": 1, "down": 3, "padding": (-1, 4, 2, -2), "filter": (3, 6), "gain": 0.7},
    {"up": 2, "down": 1, "padding": (6, 5, 6, 5), "filter": (12,), "gain": 4},
    {"up": (1, 2), "down": (2, 1), "padding": 3, "filter": (7,), "flip_filter": True},
]


def normal(shape: Sequence[int], dtype: torch.dtype, layout: str, device: str = "cpu") -> Tensor:
    """Return normal numbers in a memory layout; the values depend on the shape only."""
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
    return arrange(values.to(dtype).to(device), layout)


def arrange(x: Tensor, layout: str) -> Tensor:
    """Return the same values in another memory layout."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    if layout == "sliced":
        wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1] + 1)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "offset":
        shifted = x.new_zeros(x.numel() + 1)[1:].view(x.shape)
        return shifted.copy_(x)
    return x.contiguous()


def assert_derivatives_agree(
    function: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    tolerance: float,
) -> None:
    """Compare values, gradients and gradients of the gradients with a formula in float64."""
    actual = _derivatives(function, inputs)
    expected = _derivatives(reference, [x.double() for x in inputs])
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        scale = e.abs().max().item() if e.numel() else 1
        torch.testing.assert_close(
            a.double(),
            e,
            rtol=0,
            atol=tolerance * max(scale, 1e-3),
            msg=lambda text, index=index: f"result {index}: {text}",
        )


def _derivatives(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in inputs]
    output = function(*inputs)
    cotangent = torch.linspace(-1, 1.5, output.numel(), dtype=torch.float64, device=output.device)
    cotangent = cotangent.view(output.shape).to(output.dtype).requires_grad_()
    first = torch.autograd.grad(output, inputs, cotangent, create_graph=True)
    # Rounded alike, so that the second derivatives are those of the same sum.
    weights = [torch.linspace(1, -2, g.numel()).view(g.shape) for g in first]
    total = sum((g * w.to(g)).sum() for g, w in zip(first, weights, strict=True))
    second = torch.autograd.grad(
        total, [cotangent, *inputs], allow_unused=True, materialize_grads=True
    )
    return [x.detach() for x in (output, *first, *second)]


def check_bias_act(
    ops: Any,
    case: dict[str, Any],
    dtype: torch.dtype,
    *,
    layout: str = "contiguous",
    shape: Sequence[int] = (3, 5, 4, 7),
    dim: int = 1,
    device: str = "cpu",
) -> None:
    """Compare `bias_act` and two derivatives with the plain formula."""
    options = {name: case[name] for name in ("gain", "clamp")}
    x = normal(shape, dtype, layout, device)
    inputs = [x, normal((shape[dim],), dtype, "contiguous", device)]
    inputs = inputs if case["with_bias"] else inputs[:1]

    def function(x, bias=None):
        return BiasAct.apply(x, bias, ops, dim, case["slope"], *options.values())

    def reference(x, bias=None):
        return formulas.bias_act(
            x, bias, dim=dim, activation="lrelu", alpha=case["slope"], **options
        )

    assert_derivatives_agree(function, reference, inputs, TOLERANCES[dtype])


def check_upfirdn2d(
    operation: Callable[..., Tensor],
    case: dict[str, Any],
    dtype: torch.dtype,
    *,
    layout: str = "contiguous",
    shape: Sequence[int] = (2, 4, 13, 10),
    device: str = "cpu",
) -> None:
    """Compare `upfirdn2d` and two derivatives with the plain formula."""
    x = normal(shape, dtype, layout, device)
    is_double = dtype is torch.float64
    taps = normal(case["filter"], torch.float64 if is_double else torch.float32, "contiguous")
    taps = taps.to(device)
    up, down, padding = case["up"], case["down"], case["padding"]
    up, down = (_as_list(factor, 2) for factor in (up, down))
    flip, gain = case.get("flip_filter", False), case.get("gain", 1)

    def function(x):
        return operation(x, taps, *up, *down, *_as_list(padding, 4), flip, gain)

    def reference(x):
        return formulas.upfirdn2d(
            x, taps, up=up, down=down, padding=padding, flip_filter=flip, gain=gain
        )

    assert_derivatives_agree(function, reference, [x], 2 * TOLERANCES[dtype])
    if layout == "channels_last" and not x.is_contiguous():
        assert function(x).is_contiguous(memory_format=torch.channels_last)


def _as_list(value: int | Sequence[int], length: int) -> list[int]:
    return [value] * length if isinstance(value, int) else list(value)


def triplane_inputs(
    dtype: torch.dtype,
    *,
    layout: str = "contiguous",
    channels: int = 8,
    num_points: int = 33,
    size: Sequence[int] = (5, 7),
    device: str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Return a table of planes that are not square and points of which some lie outside."""
    table = normal((2, 3, *size, channels), dtype, layout, device)
    positions = torch.float64 if dtype is torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(3)
    points = torch.rand(2, 3, num_points, 2, generator=generator) * 2.8 - 1.4
    return table, arrange(points.to(positions).to(device), layout)


def check_triplane_sample(ops: Any, dtype: torch.dtype, **options: Any) -> None:
    """Compare `triplane_sample` and two derivatives with the plain formula."""

    def function(table, points):
        return look_up(table, points, ops)

    def reference(table, points):
        return formulas.triplane_sample(table.permute(0, 1, 4, 2, 3), points)

    inputs = triplane_inputs(dtype, **options)
    assert_derivatives_agree(function, reference, inputs, 4 * TOLERANCES[dtype])
