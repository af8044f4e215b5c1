"""triplane_sample against its twin, PyTorch's own look-up and finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

import torch_utils.ops._triplane_pytorch as module
from torch_utils.ops.triplane_sample import triplane_sample, triplane_sample_points_gradient


def _make_inputs(num_points: int = 40, size: tuple[int, int, int] = (4, 5, 7), dtype=torch.float32):
    """Return planes that are not square and points of which some lie outside of them."""
    torch.manual_seed(0)
    planes = torch.randn(2, 3, *size, dtype=dtype, requires_grad=True)
    plane_points = (torch.rand(2, 3, num_points, 2, dtype=dtype) * 2.8 - 1.4).requires_grad_()
    return planes, plane_points


def _first_and_second_derivatives(planes, plane_points, **options):
    features = triplane_sample(planes, plane_points, **options)
    cotangent = torch.linspace(-1, 1, features.numel(), dtype=features.dtype).view_as(features)
    first = torch.autograd.grad(features, (planes, plane_points), cotangent, create_graph=True)
    penalty = sum((gradient**2).sum() for gradient in first)
    return features, *first, *torch.autograd.grad(penalty, (planes, plane_points))


@pytest.mark.parametrize("reduce", ["mean", "none"])
def test_gradients_agree_with_finite_differences(reduce):
    inputs = _make_inputs(num_points=4, size=(2, 3, 4), dtype=torch.float64)

    def function(planes, plane_points):
        return triplane_sample(planes, plane_points, reduce=reduce)

    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("reduce", ["mean", "none"])
def test_fast_and_reference_agree(reduce, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_POINTS", 32)  # several pieces, the last of them partial
    inputs = _make_inputs(num_points=37)
    fast = _first_and_second_derivatives(*inputs, reduce=reduce)
    reference = _first_and_second_derivatives(*inputs, reduce=reduce, impl="reference")
    torch.testing.assert_close(fast, reference, rtol=1e-4, atol=1e-4)


def test_forward_and_gradients_agree_with_grid_sample():
    planes, plane_points = _make_inputs()
    features = triplane_sample(planes, plane_points, reduce="none")
    expected = F.grid_sample(
        planes.flatten(0, 1), plane_points.flatten(0, 1)[:, None], align_corners=False
    )
    expected = expected.view(2, 3, 4, -1).transpose(2, 3)
    torch.testing.assert_close(features, expected)
    actual_gradients = torch.autograd.grad(features.square().sum(), (planes, plane_points))
    expected_gradients = torch.autograd.grad(expected.square().sum(), (planes, plane_points))
    torch.testing.assert_close(actual_gradients, expected_gradients, rtol=1e-4, atol=1e-5)


def test_points_far_outside_see_zero():
    planes, _ = _make_inputs()
    far = torch.tensor([[5.0, 0.0], [0.0, -1e6], [1e30, -1e30]]).expand(2, 3, 3, 2)
    assert (triplane_sample(planes, far) == 0).all()


def test_no_points_give_an_empty_result():
    planes, _ = _make_inputs()
    assert triplane_sample(planes, torch.zeros(2, 3, 0, 2)).shape == (2, 0, 4)
    assert triplane_sample(planes, torch.zeros(2, 3, 0, 2), reduce="none").shape == (2, 3, 0, 4)


def test_gradient_of_the_points_does_not_compute_that_of_the_planes(monkeypatch):
    planes, plane_points = _make_inputs()

    def refuse(*_):
        raise AssertionError("the scatter into the planes ran")

    monkeypatch.setattr(module, "_scatter_rows", refuse)
    features = triplane_sample(planes, plane_points)
    torch.autograd.grad(features.sum(), plane_points, create_graph=True)
    with pytest.raises(AssertionError, match="scatter"):
        torch.autograd.grad(features.sum(), planes)


@pytest.mark.parametrize("reduce", ["mean", "none"])
def test_points_gradient_is_what_autograd_computes_for_the_points(reduce):
    planes, plane_points = _make_inputs()
    features = triplane_sample(planes, plane_points, reduce=reduce)
    cotangent = torch.linspace(-1, 1, features.numel()).view_as(features)
    (expected,) = torch.autograd.grad(features, plane_points, cotangent)
    actual = triplane_sample_points_gradient(cotangent, planes, plane_points, reduce=reduce)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("reduce", ["mean", "none"])
def test_points_gradient_has_gradients_for_all_its_inputs(reduce):
    inputs = _make_inputs(num_points=4, size=(2, 3, 4), dtype=torch.float64)
    shape = (2, 4, 2) if reduce == "mean" else (2, 3, 4, 2)
    grad_features = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def function(*tensors):
        return triplane_sample_points_gradient(*tensors, reduce=reduce)

    assert gradcheck(function, (grad_features, *inputs))
