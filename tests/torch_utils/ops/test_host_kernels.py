"""The kernels' arithmetic, run by loops on the CPU: what a GPU would compute, element by element.

The compiled library holds these loops as `torch.ops.mate3d_host`, for tests only. What remains
untested without a GPU is that threads are launched for all elements and that memory is accessed
in parallel.
"""

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import Library, register_autograd

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
from torch_utils.ops._library_upfirdn2d import backward, save
from torch_utils.ops.bias_act import BiasAct
from torch_utils.ops.triplane_sample import look_up

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ops(compiled_kernels):
    """The loops, with the derivatives that the library defines for the kernels."""
    library, ops = Library("mate3d_host", "FRAGMENT"), torch.ops.mate3d_host
    backward_of_host = partial(backward, ops.upfirdn2d)
    register_autograd("mate3d_host::upfirdn2d", backward_of_host, setup_context=save, lib=library)
    yield ops
    library._destroy()


def test_bias_act_and_derivatives(ops):
    shapes = [((5,), 0), ((3, 7), 1), ((2, 3, 5), 0), ((2, 1, 3, 3), 1), ((4, 6, 1, 1), 1)]
    for case in BIAS_ACT_CASES:
        for dtype in DTYPES:
            for layout in LAYOUTS:
                check_bias_act(ops, case, dtype, layout=layout)
        for shape, dim in shapes:
            check_bias_act(ops, case, torch.float32, shape=shape, dim=dim)


@pytest.mark.parametrize("case", UPFIRDN2D_CASES, ids=str)
def test_upfirdn2d_and_derivatives(ops, case):
    for dtype in DTYPES:
        check_upfirdn2d(ops.upfirdn2d, case, dtype)
    for layout in LAYOUTS:
        for channels in (4, 5, 1):
            for dtype in (torch.float32, torch.float16):
                shape = (2, channels, 13, 10)
                check_upfirdn2d(ops.upfirdn2d, case, dtype, layout=layout, shape=shape)


@pytest.mark.parametrize("case", UPFIRDN2D_CASES[:4], ids=str)
def test_upfirdn2d_at_sizes_around_a_strip(ops, case):
    for size in ((2, 3), (3, 2), (8, 8), (17, 16), (9, 31)):
        for layout in ("contiguous", "channels_last"):
            shape = (1, 4, *size)
            check_upfirdn2d(ops.upfirdn2d, case, torch.float32, layout=layout, shape=shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_triplane_sample_and_derivatives(ops, dtype):
    for channels in (8, 5, 32):
        check_triplane_sample(ops, dtype, channels=channels)
    for layout in LAYOUTS:
        check_triplane_sample(ops, dtype, layout=layout)


def test_gradients_agree_with_finite_differences(ops):
    x, bias = normal((2, 3, 5), torch.float64, "contiguous"), normal((3,), torch.float64, "offset")
    table, points = triplane_inputs(torch.float64, channels=2, num_points=4, size=(3, 4))
    taps = normal((4, 4), torch.float64, "contiguous")
    image = normal((1, 2, 5, 4), torch.float64, "contiguous")
    options = [(ops, 1, *list(case.values())[:3]) for case in BIAS_ACT_CASES]
    calls = [(lambda x, b, o=o: BiasAct.apply(x, b, *o), (x, bias)) for o in options]
    calls += [
        (lambda x: ops.upfirdn2d(x, taps, 2, 2, 1, 1, 2, 1, 2, 1, False, 4.0), (image,)),
        (lambda t, p: look_up(t, p, ops), (table, points)),
    ]
    for call, inputs in calls:
        inputs = [value.detach().requires_grad_() for value in inputs]
        assert gradcheck(call, inputs)
        assert gradgradcheck(call, inputs)


def test_points_far_outside_see_zero_and_what_is_no_number_shows(ops):
    table, points = triplane_inputs(torch.float32)
    far = torch.tensor([[5.0, 0.0], [0.0, -1e6], [1e30, -1e30]]).expand(2, 3, 3, 2)
    assert (ops.triplane_sample(table, far, None) == 0).all()
    assert (ops.triplane_sample_table_grad(torch.ones(2, 3, 8), far, None, 5, 7) == 0).all()
    points[0, 1, 3, 0] = torch.nan
    features = ops.triplane_sample(table, points, None)
    assert features[0, 3].isnan().all()
    assert not features[1].isnan().any()


def test_empty_inputs_give_empty_or_zero_results(ops):
    assert ops.bias_act(torch.zeros(0, 3), torch.zeros(3), 1, 0.2, 1.0, None).shape == (0, 3)
    taps = torch.ones(4, 4)
    empty = ops.upfirdn2d(torch.zeros(0, 3, 8, 8), taps, 2, 2, 1, 1, 2, 1, 2, 1, False, 1.0)
    assert empty.shape == (0, 3, 16, 16)
    table, points = triplane_inputs(torch.float32, num_points=0)
    assert ops.triplane_sample(table, points, None).shape == (2, 0, 8)
    grad = torch.zeros(2, 0, 8)
    assert (ops.triplane_sample_table_grad(grad, points, None, 5, 7) == 0).all()
    assert ops.triplane_sample_points_grad(grad, table, points, None).shape == (2, 3, 0, 2)


def test_inputs_that_do_not_fit_are_refused(ops):
    zeros, image, taps = torch.zeros, torch.zeros(1, 1, 8, 8), torch.ones(4, 4)
    step, sizes = (1, 0.2, 1.0, None), (1, 1, 1, 1, 0, 0, 0, 0, False, 1.0)
    table, points = zeros(1, 3, 4, 4, 8), zeros(1, 3, 5, 2)
    many = zeros(2, 3, 1, 2).expand(-1, -1, 2**30, -1)
    for operation, *arguments in (
        (ops.bias_act, zeros(2, 3), zeros(4), *step),
        (ops.bias_act, zeros(2, 3).int(), None, *step),
        (ops.bias_act, zeros(2, 3), zeros(3).half(), *step),
        (ops.bias_act_grad, zeros(2, 3), zeros(3, 2), *step[1:]),
        (ops.upfirdn2d, zeros(3, 8, 8), taps, *sizes),
        (ops.upfirdn2d, zeros(1, 1, 3, 3), taps, *sizes),
        (ops.upfirdn2d, image, taps.half(), *sizes),
        (ops.triplane_sample, zeros(1, 2, 4, 4, 8), points, None),
        (ops.triplane_sample, table, points.half(), None),
        (ops.triplane_sample, zeros(2, 3, 4, 4, 8), many, None),
        (ops.triplane_sample_points_grad, zeros(1, 4, 8), table, points, None),
    ):
        with pytest.raises(RuntimeError, match="bias_act|upfirdn2d|triplane_sample"):
            operation(*arguments)
