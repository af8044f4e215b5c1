"""What all operations promise: to graph compilers, under autocast, and about wrong inputs."""

import pytest
import torch
from torch.library import opcheck

from tests.torch_utils.ops.library_cases import Place
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.resample import setup_filter, upfirdn2d
from torch_utils.ops.triplane_sample import triplane_sample

OPS, PLACE = torch.ops.mate3d, Place()


def test_operations_keep_the_contracts_of_the_library():
    for layout in ("contiguous", "channels_last"):
        x = PLACE.normal((2, 3, 6, 5), torch.float32, layout).requires_grad_()
        opcheck(OPS.upfirdn2d.default, (x, torch.ones(4, 4), 2, 2, 1, 1, 2, 1, 2, 1, False, 4.0))
    table, points = PLACE.triplane_inputs(torch.float32)
    grad, direction = torch.ones(2, 33, 8), torch.ones_like(points)
    opcheck(OPS.triplane_sample.default, (table, points, None))
    opcheck(OPS.triplane_sample_table_grad.default, (grad, points, direction, 5, 7))
    opcheck(OPS.triplane_sample_points_grad.default, (grad, table, points, direction))


@pytest.mark.parametrize(
    ("device", "dynamic"),
    [
        ("cpu", False),
        pytest.param("cpu", True, marks=pytest.mark.slow),
        pytest.param("cuda", False, marks=pytest.mark.gpu),
    ],
)
def test_compiled_functions_have_the_values_and_gradients_of_eager_ones(device, dynamic):
    place, taps = Place(device=device), setup_filter((1, 3, 3, 1), device=device)

    def function(x, bias, points):
        x = upfirdn2d(bias_act(x, bias, activation="lrelu", clamp=2.0), taps, up=2, padding=[2, 1])
        return triplane_sample(x.unflatten(1, (3, -1)), points) ** 2

    def gradients(function, size):
        shapes = ((2, 12, size, size), (12,), (2, 3, 3 * size, 2))
        inputs = [place.normal(shape, torch.float32).requires_grad_() for shape in shapes]
        y = function(*inputs)
        return y, *torch.autograd.grad(y.sum(), inputs)

    # On a GPU the rest of the function is compiled too, and atomic additions round differently.
    backend, tolerance = ("aot_eager", None) if device == "cpu" else ("inductor", 1e-4)
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend=backend)
    for size in (4, 6):
        actual, expected = gradients(compiled, size), gradients(function, size)
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_third_derivatives_of_look_ups_are_refused():
    table, points = PLACE.triplane_inputs(torch.float64)
    points.requires_grad_()
    y = triplane_sample(table.permute(0, 1, 4, 2, 3), points)
    (first,) = torch.autograd.grad(y.square().sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), points, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate"):
        second.sum().backward()


def test_results_keep_their_types_and_precision_under_autocast():
    x, bias = torch.randn(2, 6, 8, 8), torch.randn(6)
    taps = setup_filter((1, 3, 3, 1))
    points = (torch.rand(2, 3, 9, 2) * 2 - 1).requires_grad_()

    def slopes(planes):
        features = triplane_sample(planes, points)
        with torch.autocast("cpu", enabled=False):
            return torch.autograd.grad(features.sum(), points)[0].to(planes.dtype)

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        planes = x.to(dtype).unflatten(1, (3, 2))
        # The bias of a layer stays float32.
        calls = [
            lambda d=dtype: bias_act(x.to(d), bias, activation="lrelu", clamp=1.0),
            lambda d=dtype: upfirdn2d(x.to(d), taps, up=2, padding=[2, 1]),
            lambda p=planes: triplane_sample(p, points).detach(),
            lambda p=planes: slopes(p),
        ]
        for call in calls:
            expected = call()
            with torch.autocast("cpu", torch.bfloat16):
                actual = call()
            assert actual.dtype == dtype
            torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_input_of_bias_act_is_not_overwritten():
    x = torch.full((1, 2), -1.0)
    bias_act(x, activation="lrelu", clamp=0.1)
    bias_act(x)
    assert (x == -1).all()


def test_clamped_values_of_half_types_have_no_gradient():
    # 0.8 is not a number of float16: the stored limit is smaller.
    x = torch.full((2, 3), 5.0, dtype=torch.float16, requires_grad=True)
    (grad,) = torch.autograd.grad(bias_act(x, clamp=0.8).sum(), x)
    assert (grad == 0).all()
