"""bias_act against its plain formula and against finite differences."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from tests.reference import ops as formulas
from tests.torch_utils.ops.library_cases import (
    BIAS_ACT_CASES,
    DTYPES,
    LAYOUTS,
    check_bias_act,
)
from torch_utils.ops.bias_act import PYTORCH, bias_act


@pytest.mark.parametrize("activation", ["linear", "lrelu"])
@pytest.mark.parametrize("clamp", [None, 0.7])
def test_gradients_agree_with_finite_differences(activation, clamp):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def function(x, bias):
        return bias_act(x, bias, activation=activation, gain=1.3, clamp=clamp)

    assert gradcheck(function, (x, bias))
    assert gradgradcheck(function, (x, bias))


@pytest.mark.parametrize("case", BIAS_ACT_CASES, ids=str)
def test_values_and_derivatives_agree_with_the_formula(case):
    for dtype in DTYPES:
        check_bias_act(PYTORCH, case, dtype)
    for layout in LAYOUTS:
        check_bias_act(PYTORCH, case, torch.float32, layout=layout)
    check_bias_act(PYTORCH, case, torch.float32, shape=(3, 7), dim=1)


@pytest.mark.parametrize("activation", ["linear", "lrelu"])
def test_defaults_and_other_dimensions_agree_with_the_formula(activation):
    x, bias = torch.randn(2, 6, 5, 3), torch.randn(3)
    expected = formulas.bias_act(x, bias, dim=3, activation=activation)
    torch.testing.assert_close(bias_act(x, bias, dim=-1, activation=activation), expected)


def test_input_is_not_overwritten():
    x = torch.full((1, 2), -1.0)
    bias_act(x, activation="lrelu", clamp=0.1)
    bias_act(x)
    assert (x == -1).all()


def test_clamped_values_of_half_types_have_no_gradient():
    # 0.8 is not a number of float16: the stored limit is smaller.
    x = torch.full((2, 3), 5.0, dtype=torch.float16, requires_grad=True)
    (grad,) = torch.autograd.grad(bias_act(x, clamp=0.8).sum(), x)
    assert (grad == 0).all()
