"""What all operations promise: to graph compilers, under autocast, and about wrong inputs."""

import pytest
import torch
from torch.library import opcheck

from tests.torch_utils.ops.library_cases import Place
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.triplane_sample import triplane_sample, triplane_sample_points_gradient
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

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


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_functions_have_the_values_and_gradients_of_eager_ones(dynamic):
    taps = setup_filter((1, 3, 3, 1))

    def function(x, bias, points):
        x = upfirdn2d(bias_act(x, bias, activation="lrelu", clamp=2.0), taps, up=2, padding=[2, 1])
        return triplane_sample(x.unflatten(1, (3, -1)), points) ** 2

    def gradients(function, size):
        x = PLACE.normal((2, 12, size, size), torch.float32).requires_grad_()
        bias = PLACE.normal((12,), torch.float32).requires_grad_()
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
    table, points = PLACE.triplane_inputs(torch.float32)
    planes, grad = table.permute(0, 1, 4, 2, 3), torch.ones(2, 33, 8)
    compiled = torch.compile(triplane_sample_points_gradient, fullgraph=True, backend="aot_eager")
    expected = triplane_sample_points_gradient(grad, planes, points)
    torch.testing.assert_close(compiled(grad, planes, points), expected)


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


def test_shapes_that_would_broadcast_are_refused():
    x, points = torch.zeros(2, 6, 4, 5), torch.zeros(1, 3, 7, 2)
    for call in (
        lambda: bias_act(x, torch.zeros(1)),
        lambda: triplane_sample(x.view(2, 3, 2, 4, 5), points),
        lambda: triplane_sample_points_gradient(
            torch.zeros(1, 1, 2), x[:1].view(1, 3, 2, 4, 5), points
        ),
    ):
        with pytest.raises(AssertionError):
            call()


def test_cpu_tensors_neither_load_nor_compile_kernels(monkeypatch):
    def refuse():
        raise AssertionError("kernels were asked for")

    monkeypatch.setattr("torch_utils.ops._extension.load", refuse)
    bias_act(torch.zeros(2, 3))
    OPS.bias_act(torch.zeros(2, 3), None, 1, 0.2, 1.0, None)
