"""The kernels' arithmetic, run by loops on the CPU: what a GPU would compute, element by element.

The compiled library holds these loops as `torch.ops.mate3d_host`, for tests only. What remains
untested without a GPU is that threads are launched for all elements and that memory is accessed
in parallel.
"""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import Library, opcheck

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
from torch_utils.ops._library import describe
from torch_utils.ops._registration import OPERATIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ops(compiled_kernels):
    """The loops, with the derivatives that the library defines for the kernels."""
    library = Library("mate3d_host", "FRAGMENT")
    for operation in OPERATIONS:
        describe(library, operation)
    yield torch.ops.mate3d_host
    library._destroy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", BIAS_ACT_CASES, ids=str)
def test_bias_act_and_derivatives(ops, case, dtype):
    check_bias_act(ops, case, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bias_act_in_every_layout(ops, layout, dtype):
    for case in BIAS_ACT_CASES[::5]:
        check_bias_act(ops, case, dtype, layout=layout)


@pytest.mark.parametrize(
    ("shape", "dim"), [((5,), 0), ((3, 7), 1), ((2, 3, 5), 0), ((2, 1, 3, 3), 1), ((4, 6, 1, 1), 1)]
)
def test_bias_act_along_every_dimension(ops, shape, dim):
    check_bias_act(ops, BIAS_ACT_CASES[9], torch.float32, shape=shape, dim=dim)


@pytest.mark.parametrize("case", BIAS_ACT_CASES, ids=str)
def test_bias_act_gradients_agree_with_finite_differences(ops, case):
    inputs = [normal((2, 3, 5), torch.float64, "contiguous").requires_grad_()]
    if case["with_bias"]:
        inputs.append(normal((3,), torch.float64, "contiguous").requires_grad_())

    def function(x, bias=None):
        return ops.bias_act(x, bias, 1, case["activation"], 0.2, case["gain"], case["clamp"])

    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", UPFIRDN2D_CASES, ids=str)
def test_upfirdn2d_and_derivatives(ops, case, dtype):
    check_upfirdn2d(ops, case, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [4, 5, 1])
@pytest.mark.parametrize("case", UPFIRDN2D_CASES[:5] + UPFIRDN2D_CASES[9:12], ids=str)
def test_upfirdn2d_in_every_layout(ops, case, channels, layout):
    for dtype in (torch.float32, torch.float16):
        check_upfirdn2d(ops, case, dtype, layout=layout, shape=(2, channels, 13, 10))


@pytest.mark.parametrize("size", [(2, 3), (3, 2), (8, 8), (17, 16), (9, 31)])
@pytest.mark.parametrize("case", UPFIRDN2D_CASES[:4], ids=str)
def test_upfirdn2d_at_sizes_around_a_strip(ops, case, size):
    for layout in ("contiguous", "channels_last"):
        check_upfirdn2d(ops, case, torch.float32, layout=layout, shape=(1, 4, *size))


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [8, 5, 32])
def test_triplane_sample_and_derivatives(ops, dtype, channels, mean):
    check_triplane_sample(ops, dtype, mean=mean, channels=channels)


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_triplane_sample_in_every_layout(ops, layout, mean):
    for dtype in (torch.float32, torch.float16):
        check_triplane_sample(ops, dtype, mean=mean, layout=layout)


@pytest.mark.parametrize("mean", [True, False])
def test_triplane_gradients_agree_with_finite_differences(ops, mean):
    table, points = triplane_inputs(torch.float64, channels=2, num_points=4, size=(3, 4))
    inputs = (table.requires_grad_(), points.requires_grad_())

    def function(table, points):
        return ops.triplane_sample(table, points, None, mean)

    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_points_far_outside_see_zero(ops):
    table, _ = triplane_inputs(torch.float32)
    far = torch.tensor([[5.0, 0.0], [0.0, -1e6], [1e30, -1e30]]).expand(2, 3, 3, 2)
    assert (ops.triplane_sample(table, far, None, True) == 0).all()
    assert (ops.triplane_sample_table_grad(torch.ones(2, 3, 8), far, None, 5, 7, True) == 0).all()


def test_a_position_that_is_no_number_shows_in_the_features(ops):
    table, points = triplane_inputs(torch.float32)
    points[0, 1, 3, 0] = torch.nan
    features = ops.triplane_sample(table, points, None, True)
    assert features[0, 3].isnan().all()
    assert not features[1].isnan().any()


def test_empty_inputs_give_empty_or_zero_results(ops):
    assert ops.bias_act(torch.zeros(0, 3), torch.zeros(3), 1, "lrelu", 0.2, 1.0, None).shape == (
        0,
        3,
    )
    taps = torch.ones(4, 4)
    empty = ops.upfirdn2d(torch.zeros(0, 3, 8, 8), taps, 2, 2, 1, 1, 2, 1, 2, 1, False, 1.0)
    assert empty.shape == (0, 3, 16, 16)
    table, points = triplane_inputs(torch.float32, num_points=0)
    assert ops.triplane_sample(table, points, None, True).shape == (2, 0, 8)
    grad = torch.zeros(2, 0, 8)
    assert (ops.triplane_sample_table_grad(grad, points, None, 5, 7, True) == 0).all()
    assert ops.triplane_sample_points_grad(grad, table, points, None, True).shape == (2, 3, 0, 2)


def test_operations_keep_the_contracts_of_the_library(ops):
    x, bias = normal((2, 3, 4, 5), torch.float32, "contiguous").requires_grad_(), torch.ones(3)
    opcheck(ops.bias_act.default, (x, bias, 1, "swish", 0.0, 1.0, None))
    opcheck(ops.bias_act_grad.default, (x, x, bias, 1, "lrelu", 0.2, 1.0, 0.5, True))
    taps = torch.ones(4, 4)
    opcheck(ops.upfirdn2d.default, (x, taps, 2, 2, 1, 1, 2, 1, 2, 1, False, 4.0))
    table, points = triplane_inputs(torch.float32)
    table, points = table.requires_grad_(), points.requires_grad_()
    features = torch.ones(2, 33, 8)
    opcheck(ops.triplane_sample.default, (table, points, None, True))
    opcheck(ops.triplane_sample_table_grad.default, (features, points, None, 5, 7, True))
    opcheck(ops.triplane_sample_points_grad.default, (features, table, points, None, True))


def test_too_many_points_are_refused(ops):
    table, points = triplane_inputs(torch.float32)
    many = points[:, :, :1].expand(-1, -1, 2**30, -1)
    with pytest.raises(RuntimeError, match="1073741824 points on each plane of 2 images"):
        ops.triplane_sample(table, many, None, True)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("bias_act", (torch.zeros(2, 3), torch.zeros(4), 1, "relu", 0.0, 1.0, None), "bias must"),
        ("bias_act", (torch.zeros(2, 3), None, 1, "gelu", 0.0, 1.0, None), "activation is 'gelu'"),
        ("bias_act", (torch.zeros(2, 3).int(), None, 1, "relu", 0.0, 1.0, None), "dtype is Int"),
        (
            "bias_act",
            (torch.zeros(2, 3), torch.zeros(3).half(), 1, "relu", 0.0, 1.0, None),
            "dtype of bias is Half",
        ),
        (
            "upfirdn2d",
            (torch.zeros(3, 8, 8), torch.ones(4, 4), 1, 1, 1, 1, 0, 0, 0, 0, False, 1.0),
            "images have 3 dimensions",
        ),
        (
            "upfirdn2d",
            (torch.zeros(1, 1, 3, 3), torch.ones(4, 4), 1, 1, 1, 1, 0, 0, 0, 0, False, 1.0),
            "fewer than the filter's 4",
        ),
        (
            "upfirdn2d",
            (torch.zeros(1, 1, 8, 8), torch.ones(4, 4).half(), 1, 1, 1, 1, 0, 0, 0, 0, False, 1.0),
            "dtype of filter is Half",
        ),
        (
            "triplane_sample",
            (torch.zeros(1, 2, 4, 4, 8), torch.zeros(1, 3, 5, 2), None, True),
            "shape of the table",
        ),
        (
            "triplane_sample",
            (torch.zeros(1, 3, 4, 4, 8), torch.zeros(1, 3, 5, 2).half(), None, True),
            "dtype of points is Half",
        ),
        (
            "triplane_sample_points_grad",
            (
                torch.zeros(1, 4, 8),
                torch.zeros(1, 3, 4, 4, 8),
                torch.zeros(1, 3, 5, 2),
                None,
                True,
            ),
            "gradient's shape differs",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_named(ops, name, arguments, message):
    with pytest.raises(RuntimeError, match=message):
        getattr(ops, name)(*arguments)
