"""bias_act as its callers see it; values and derivatives are in test_kernels."""

import pytest
import torch

from tests.reference import ops as formulas
from torch_utils.ops.bias_act import bias_act


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
