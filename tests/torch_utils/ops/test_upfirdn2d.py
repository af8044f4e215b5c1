"""upfirdn2d against its twin, against finite differences, and by properties of filters."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from tests.reference import ops as formulas
from torch_utils.ops.upfirdn2d import filter2d, setup_filter, upfirdn2d, upsample2d

TAPS = (1, 3, 3, 1)
OPTIONS = [
    {"up": 2, "padding": (2, 1), "gain": 4},
    {"up": (3, 1), "down": (1, 2), "padding": (-2, 3, 1, 0)},
    {"down": 2, "padding": (1, 0, -1, 2), "flip_filter": True},
    {"up": 2, "down": 3, "padding": 4},
]


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_agree_with_finite_differences(options, separable):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    filter = setup_filter((1, 2, 4), separable=separable)
    assert gradcheck(lambda x: upfirdn2d(x, filter, **options), x)
    assert gradgradcheck(lambda x: upfirdn2d(x, filter, **options), x)


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_fast_and_reference_agree(options, separable):
    torch.manual_seed(1)
    x = torch.randn(2, 3, 7, 8, requires_grad=True)
    filter = setup_filter((1, 2, 4), separable=separable)
    results = []
    for function in (upfirdn2d, formulas.upfirdn2d):
        y = function(x, filter, **options)
        cotangent = torch.linspace(-1, 1, y.numel()).view_as(y)
        results.append((y, *torch.autograd.grad(y, x, cotangent)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("operation", [filter2d, upsample2d, formulas.downsample2d])
def test_constant_image_keeps_its_value_inside(operation):
    y = operation(torch.full((1, 1, 12, 12), 0.7), setup_filter(TAPS))
    torch.testing.assert_close(y[..., 2:-2, 2:-2], torch.full_like(y[..., 2:-2, 2:-2], 0.7))


def test_upsampling_is_the_adjoint_of_downsampling():
    torch.manual_seed(2)
    small, large = torch.randn(1, 1, 4, 6), torch.randn(1, 1, 8, 12)
    filter = setup_filter(TAPS)
    up, down = upsample2d(small, filter) / 4, formulas.downsample2d(large, filter)
    torch.testing.assert_close((up * large).sum(), (small * down).sum())
