"""MLPs with recomputed hidden layers against the same formula in PyTorch's own functions."""

import pytest
import torch
from torch import Tensor

from mate3d.network import sdf_decoder as module
from mate3d.network.sdf_decoder import evaluate_mlps, grouped_mlps, grouped_mlps_reference, make_mlp


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Several pieces, the last one shorter."""
    monkeypatch.setitem(module._CHUNK_BYTES, "cpu", 7 * 4 * 20)


def make_arguments(num_outputs: int = 1, *, dtype: torch.dtype = torch.float32, gain: float = 1.0):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()

    features = (draw(17, 3) * gain).detach().requires_grad_()
    return [features, draw(4 * 5, 3), draw(4 * 5), draw(4, num_outputs, 5), draw(4, num_outputs)]


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("gain", [1.0, 300.0, 1e6], ids=["usual", "beyond_exp", "huge"])
def test_values_and_gradients_match_the_formula(num_outputs, gain):
    arguments = make_arguments(num_outputs, gain=gain)
    found, expected = grouped_mlps(*arguments), grouped_mlps_reference(*arguments)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * gain)
    cotangent = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    pairs = zip(
        torch.autograd.grad(found, arguments, cotangent),
        torch.autograd.grad(expected, arguments, cotangent),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * gain)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_first_and_second_gradients_are_exact(num_outputs):
    arguments = make_arguments(num_outputs, dtype=torch.float64)
    assert torch.autograd.gradcheck(grouped_mlps, arguments)
    assert torch.autograd.gradgradcheck(grouped_mlps, arguments)


@pytest.mark.parametrize("wanted", range(5))
def test_only_gradients_asked_for_are_returned(wanted):
    arguments = [argument.detach() for argument in make_arguments()]
    arguments[wanted].requires_grad_()
    grouped_mlps(*arguments).square().sum().backward()
    has_gradient = [argument.grad is not None for argument in arguments]
    assert has_gradient == [index == wanted for index in range(5)]


def test_hidden_layers_are_not_kept():
    arguments, shapes = make_arguments(), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: shapes.append(tensor.shape) or tensor, lambda tensor: tensor
    ):
        grouped_mlps(*arguments)
    assert sorted(shapes) == sorted(argument.shape for argument in arguments)


def test_autocast_leaves_distances_in_single_precision():
    arguments = make_arguments()
    with torch.autocast("cpu", torch.bfloat16):
        found = grouped_mlps(*arguments)
        half = grouped_mlps(arguments[0].bfloat16(), *arguments[1:])
    assert found.dtype == half.dtype == torch.float32
    torch.testing.assert_close(found, grouped_mlps_reference(*arguments))


@pytest.mark.parametrize("shape", [(2, 7, 4), (5, 4), (1, 0, 4)])
def test_all_outputs_are_those_of_the_heads_one_by_one(shape):
    torch.manual_seed(0)
    mlps = [make_mlp(4, 8, size) for size in (1, 1, 3, 1)]
    features = torch.randn(shape, requires_grad=True)
    values = evaluate_mlps(mlps, features)
    assert values.shape == (*shape[:-1], 6) and values.requires_grad
    torch.testing.assert_close(values, torch.cat([mlp(features) for mlp in mlps], dim=-1))
