"""torch.ops.mate3d on a CPU: what the library promises to autograd and to graph compilers."""

import subprocess
import sys

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from tests.torch_utils.ops.library_cases import (
    BIAS_ACT_CASES,
    DTYPES,
    LAYOUTS,
    UPFIRDN2D_CASES,
    check_bias_act,
    check_triplane_sample,
    check_upfirdn2d,
    normal,
    triplane_inputs,
)
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.triplane_sample import triplane_sample, triplane_sample_points_gradient
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

OPS = torch.ops.mate3d


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", BIAS_ACT_CASES, ids=str)
def test_bias_act_and_derivatives(case, dtype):
    check_bias_act(OPS, case, dtype)


@pytest.mark.parametrize("case", BIAS_ACT_CASES[1::4], ids=str)
def test_bias_act_gradients_agree_with_finite_differences(case):
    x = normal((2, 3, 5), torch.float64, "contiguous").requires_grad_()
    bias = normal((3,), torch.float64, "contiguous").requires_grad_()
    options = (1, case["activation"], 0.2, case["gain"], case["clamp"])
    assert gradcheck(lambda x, b: OPS.bias_act(x, b, *options), (x, bias))
    assert gradgradcheck(lambda x, b: OPS.bias_act(x, b, *options), (x, bias))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_have_the_promised_layouts(layout):
    for dtype in (torch.float32, torch.bfloat16):
        check_bias_act(OPS, BIAS_ACT_CASES[8], dtype, layout=layout)
        check_upfirdn2d(OPS, UPFIRDN2D_CASES[1], dtype, layout=layout)
        check_triplane_sample(OPS, dtype, mean=True, layout=layout)


@pytest.mark.parametrize("case", UPFIRDN2D_CASES, ids=str)
def test_upfirdn2d_and_derivatives(case):
    check_upfirdn2d(OPS, case, torch.float64)


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_triplane_sample_and_derivatives(dtype, mean):
    check_triplane_sample(OPS, dtype, mean=mean)


@pytest.mark.parametrize("mean", [True, False])
def test_triplane_gradients_agree_with_finite_differences(mean):
    table, points = triplane_inputs(torch.float64, channels=2, num_points=4, size=(3, 4))
    inputs = (table.requires_grad_(), points.requires_grad_())
    assert gradgradcheck(lambda t, p: OPS.triplane_sample(t, p, None, mean), inputs)


def test_derivatives_along_a_direction_agree_with_finite_differences():
    table, points = triplane_inputs(torch.float64, channels=2, num_points=3, size=(3, 4))
    direction = normal((2, 3, 3, 2), torch.float64, "contiguous")
    inputs = [x.requires_grad_() for x in (table, points, direction)]
    assert gradcheck(lambda t, p, d: OPS.triplane_sample(t, p, d, True), inputs)
    grad = normal((2, 3, 2), torch.float64, "contiguous")
    inputs = [x.requires_grad_() for x in (grad, points, direction)]
    assert gradcheck(lambda g, p, d: OPS.triplane_sample_table_grad(g, p, d, 3, 4, True), inputs)


def test_third_derivatives_are_refused():
    x = normal((4,), torch.float64, "contiguous").requires_grad_()
    y = OPS.bias_act(x, None, 0, "tanh", 0.0, 1.0, None)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="third order"):
        torch.autograd.grad(second.sum(), x)


@pytest.mark.parametrize("activation", ["lrelu", "swish"])
def test_bias_act_keeps_the_contracts_of_the_library(activation):
    x = normal((2, 3, 4, 5), torch.float32, "channels_last").requires_grad_()
    bias = torch.ones(3, requires_grad=True)
    options = (1, activation, 0.2, 1.5, 0.5)
    opcheck(OPS.bias_act.default, (x, bias, *options))
    opcheck(OPS.bias_act_grad.default, (x, x, bias, *options, False))
    opcheck(OPS.bias_act_grad_grad.default, (x.detach(), x.detach(), x.detach(), None, *options))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_upfirdn2d_keeps_the_contracts_of_the_library(layout):
    x = normal((2, 3, 6, 5), torch.float32, layout).requires_grad_()
    opcheck(OPS.upfirdn2d.default, (x, torch.ones(4, 4), 2, 2, 1, 1, 2, 1, 2, 1, False, 4.0))


@pytest.mark.parametrize("mean", [True, False])
def test_triplane_sample_keeps_the_contracts_of_the_library(mean):
    table, points = triplane_inputs(torch.float32)
    table, points = table.requires_grad_(), points.requires_grad_()
    direction = torch.ones_like(points)
    grad = torch.ones((2, 33, 8) if mean else (2, 3, 33, 8), requires_grad=True)
    opcheck(OPS.triplane_sample.default, (table, points, None, mean))
    opcheck(OPS.triplane_sample.default, (table, points, direction, mean))
    opcheck(OPS.triplane_sample_table_grad.default, (grad, points, None, 5, 7, mean))
    opcheck(OPS.triplane_sample_points_grad.default, (grad, table, points, None, mean))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_functions_have_the_values_and_gradients_of_eager_ones(dynamic):
    taps = setup_filter((1, 3, 3, 1))

    def function(x, bias, points):
        x = upfirdn2d(bias_act(x, bias, activation="lrelu", clamp=2.0), taps, up=2, padding=[2, 1])
        return triplane_sample(x.unflatten(1, (3, -1)), points) ** 2

    def gradients(function, size):
        x = normal((2, 12, size, size), torch.float32, "contiguous").requires_grad_()
        bias = normal((12,), torch.float32, "contiguous").requires_grad_()
        points = (torch.rand(2, 3, 3 * size, 2) * 2 - 1).requires_grad_()
        y = function(x, bias, points)
        return y, *torch.autograd.grad(y.sum(), (x, bias, points))

    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in (4, 6):
        torch.manual_seed(1)
        expected = gradients(function, size)
        torch.manual_seed(1)
        torch.testing.assert_close(gradients(compiled, size), expected)


def test_compiled_points_gradient_agrees_with_the_eager_one():
    table, points = triplane_inputs(torch.float32)
    planes, grad = table.permute(0, 1, 4, 2, 3), torch.ones(2, 33, 8)
    compiled = torch.compile(triplane_sample_points_gradient, fullgraph=True, backend="aot_eager")
    expected = triplane_sample_points_gradient(grad, planes, points)
    torch.testing.assert_close(compiled(grad, planes, points), expected)


def test_results_keep_their_types_under_autocast():
    x, bias = torch.randn(2, 6, 8, 8), torch.randn(6)
    taps = setup_filter((1, 3, 3, 1))
    points = torch.rand(2, 3, 9, 2) * 2 - 1
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        planes = x.to(dtype).unflatten(1, (3, 2))
        # The bias of a layer stays float32.
        calls = [
            lambda d=dtype: bias_act(x.to(d), bias, activation="softplus", clamp=1.0),
            lambda d=dtype: bias_act(x.to(d), bias, activation="lrelu", clamp=1.0),
            lambda d=dtype: upfirdn2d(x.to(d), taps, up=2, padding=[2, 1]),
            lambda p=planes: triplane_sample(p, points),
            lambda p=planes: triplane_sample(p, points.bfloat16(), reduce="none"),
        ]
        for call in calls:
            expected = call()
            with torch.autocast("cpu", torch.bfloat16):
                actual = call()
            assert actual.dtype == dtype
            torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_gradients_of_points_are_computed_in_float32_under_autocast():
    planes = torch.randn(1, 3, 4, 8, 8)
    points = (torch.rand(1, 3, 9, 2) * 2 - 1).requires_grad_()
    (expected,) = torch.autograd.grad(triplane_sample(planes, points).sum(), points)
    with torch.autocast("cpu", torch.bfloat16):
        features = triplane_sample(planes, points)
        (actual,) = torch.autograd.grad(features.sum(), points)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_planes_of_half_types_are_summed_in_float32(dtype):
    planes = torch.randn(1, 3, 4, 8, 8).to(dtype).requires_grad_()
    # 3000 equal contributions would stall at 2048 in float16 and at 256 in bfloat16.
    points = torch.full((1, 3, 3000, 2), 1 / 8)
    (grad,) = torch.autograd.grad(triplane_sample(planes, points, reduce="none").sum(), planes)
    assert grad.dtype == dtype
    assert grad.float().max().item() == pytest.approx(3000, rel=4e-3)


def test_clamped_values_of_half_types_have_no_gradient():
    # 0.8 is not a number of float16: the stored limit is smaller.
    x = torch.full((2, 3), 5.0, dtype=torch.float16, requires_grad=True)
    for ops in (bias_act, lambda x, clamp: OPS.bias_act(x, None, 1, "linear", 0.0, 1.0, clamp)):
        (grad,) = torch.autograd.grad(ops(x, clamp=0.8).sum(), x)
        assert (grad == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: bias_act(x, activation="gelu"), "activation is 'gelu'; allowed are linear"),
        (lambda x: bias_act(x, torch.zeros(3)), r"shape of the bias is \[3\]"),
        (lambda x: bias_act(x, clamp=-1.0), "clamp is -1.0"),
        (lambda x: bias_act(x, impl="cuda"), "impl is 'cuda'; allowed are 'auto'"),
        (lambda x: upfirdn2d(x[0], None), "shape of the images"),
        (lambda x: upfirdn2d(x, torch.ones(1, 2, 2)), "shape of the filter"),
        (lambda x: upfirdn2d(x, torch.ones(9, 9)), "have 5 x 4 samples; the filter needs 9 x 9"),
        (lambda x: upfirdn2d(x, None, up=0), "factor is 0"),
        (lambda x: triplane_sample(x, x), "shape of the planes"),
        (
            lambda x: triplane_sample(x.view(1, 3, 4, 2, 5), torch.zeros(2, 3, 7, 2)),
            r"shape of the points is \[2, 3, 7, 2\]; it must be \[1, 3, N, 2\]",
        ),
        (
            lambda x: triplane_sample(x.view(1, 3, 4, 2, 5), torch.zeros(1, 3, 7, 2), reduce="sum"),
            "reduce is 'sum'",
        ),
        (
            lambda x: triplane_sample_points_gradient(
                torch.zeros(1, 7, 3), x.view(1, 3, 4, 2, 5), torch.zeros(1, 3, 7, 2)
            ),
            r"gradient is \[1, 7, 3\]; it must be \[1, 7, 4\]",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(1, 6, 4, 5))


def test_cpu_tensors_neither_load_nor_compile_kernels():
    program = (
        "import torch; from torch_utils.ops import _extension\n"
        "def refuse(): raise AssertionError('kernels were asked for')\n"
        "_extension.load = refuse\n"
        "from torch_utils.ops.bias_act import bias_act\n"
        "bias_act(torch.zeros(2, 3)); torch.ops.mate3d.bias_act(torch.zeros(2), None, 0, 'relu',"
        " 0.0, 1.0, None)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
