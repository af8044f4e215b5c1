"""bias_act against its twin and against finite differences."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops.bias_act import ACTIVATIONS, bias_act


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("clamp", [None, 0.7])
def test_gradients_agree_with_finite_differences(activation, clamp):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def function(x, bias):
        return bias_act(x, bias, activation=activation, gain=1.3, clamp=clamp)

    assert gradcheck(function, (x, bias))
    assert gradgradcheck(function, (x, bias))


@pytest.mark.parametrize("options", [{}, {"gain": -0.5}, {"alpha": 0.05}, {"clamp": 0.4}])
@pytest.mark.parametrize("activation", ["linear", "relu", "lrelu"])
def test_fast_and_reference_agree(activation, options):
    torch.manual_seed(1)
    x, cotangent = torch.randn(2, 6, 5, 3, requires_grad=True), torch.randn(2, 6, 5, 3)
    bias = torch.randn(6, requires_grad=True)
    results = []
    for impl in ("auto", "reference"):
        y = bias_act(x, bias, activation=activation, impl=impl, **options)
        results.append((y, *torch.autograd.grad(y, (x, bias), cotangent)))
    torch.testing.assert_close(*results)


def test_input_is_not_overwritten():
    x = torch.full((1, 2), -1.0)
    bias_act(x, activation="lrelu", clamp=0.1)
    bias_act(x)
    assert (x == -1).all()


def test_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="'fastest'; allowed are"):
        bias_act(torch.ones(1, 1), impl="fastest")
