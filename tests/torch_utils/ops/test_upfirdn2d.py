"""upfirdn2d against its formula and finite differences; recorded numbers are in test_golden_ops."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from tests.reference import ops as formulas
from torch_utils.ops.resample import setup_filter, upfirdn2d


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"up": 2, "padding": (2, 1), "gain": 4},
        {"up": (3, 1), "down": (1, 2), "padding": (-2, 3, 1, 0)},
        {"down": 2, "padding": (1, 0, -1, 2), "flip_filter": True},
        {"up": 2, "down": 3, "padding": 4},
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_the_formula_and_of_differences(options, separable):
    torch.manual_seed(0)
    filter = setup_filter((1, 2, 4), separable=separable)
    small = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: upfirdn2d(x, filter, **options), small)
    assert gradgradcheck(lambda x: upfirdn2d(x, filter, **options), small)
    x = torch.randn(2, 3, 7, 8, requires_grad=True)
    results = []
    for function in (upfirdn2d, formulas.upfirdn2d):
        y = function(x, filter, **options)
        cotangent = torch.linspace(-1, 1, y.numel()).view_as(y)
        results.append((y, *torch.autograd.grad(y, x, cotangent)))
    torch.testing.assert_close(*results)
