"""triplane_sample and prepared look-ups; values and derivatives are in test_kernels."""

import pytest
import torch
from torch.autograd import gradcheck

import torch_utils.ops.triplane_sample as module
from mate3d.rendering.triplane import PLANE_AXES, find_corners, look_up, look_up_planes, make_table
from torch_utils.ops.triplane_sample import triplane_sample, triplane_sample_points_gradient


def _make_inputs(num_points: int = 40, size: tuple[int, int, int] = (4, 5, 7), dtype=torch.float32):
    """Return planes that are not square and points of which some lie outside of them."""
    torch.manual_seed(0)
    planes = torch.randn(2, 3, *size, dtype=dtype, requires_grad=True)
    plane_points = (torch.rand(2, 3, num_points, 2, dtype=dtype) * 2.8 - 1.4).requires_grad_()
    return planes, plane_points


def test_gradient_of_the_points_does_not_compute_that_of_the_planes(monkeypatch):
    planes, plane_points = _make_inputs()

    def refuse(*_):
        raise AssertionError("the scatter into the planes ran")

    monkeypatch.setattr(module, "_scatter_rows", refuse)
    features = triplane_sample(planes, plane_points)
    torch.autograd.grad(features.sum(), plane_points, create_graph=True)
    with pytest.raises(AssertionError, match="scatter"):
        torch.autograd.grad(features.sum(), planes)


def test_points_gradient_is_that_of_autograd_and_has_gradients_itself():
    planes, plane_points = _make_inputs()
    features = triplane_sample(planes, plane_points)
    cotangent = torch.linspace(-1, 1, features.numel()).view_as(features)
    (expected,) = torch.autograd.grad(features, plane_points, cotangent)
    actual = triplane_sample_points_gradient(cotangent, planes, plane_points)
    torch.testing.assert_close(actual, expected)
    inputs = _make_inputs(num_points=4, size=(2, 3, 4), dtype=torch.float64)
    grad_features = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(triplane_sample_points_gradient, (grad_features, *inputs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_planes_of_half_types_are_summed_in_float32(dtype):
    planes = torch.randn(1, 3, 4, 8, 8).to(dtype).requires_grad_()
    # 3000 equal contributions would stall at 2048 in float16 and at 256 in bfloat16.
    points = torch.full((1, 3, 3000, 2), 1 / 8)
    (grad,) = torch.autograd.grad(3 * triplane_sample(planes, points).sum(), planes)
    assert grad.dtype == dtype
    assert grad.float().max().item() == pytest.approx(3000, rel=4e-3)


@pytest.mark.parametrize("layout", sorted(PLANE_AXES))
def test_prepared_look_up_agrees_inside_at_the_border_and_outside(layout):
    random = torch.Generator().manual_seed(0)
    planes = torch.randn(2, 3, 5, 6, 6, generator=random)
    points = torch.rand(2, 200, 3, generator=random) * 3 - 1.5
    points[:, 0] = torch.tensor([1e9, -1e9, 1e9])
    points[:, 1] = torch.tensor([1.0, -1.0, 1.0])
    corners, table = find_corners(points, PLANE_AXES[layout], 6), make_table(planes)
    values = look_up(table, corners)
    for chosen in (torch.tensor([3, 7, 399]), torch.tensor([], dtype=torch.long)):
        assert torch.equal(look_up(table, corners.take(chosen)), values[chosen])
    values = values.view(2, 200, 5)
    torch.testing.assert_close(values, look_up_planes(planes, points, 2.0, layout))
    assert values[:, 0].abs().max() == 0 and values[:, 1].abs().max() > 0
