"""Heads evaluated together against the same heads one by one, at numbers of any size."""

import pytest
import torch

from mate3d.network.grouped_heads import evaluate_heads
from mate3d.network.sdf_decoder import make_head


@pytest.fixture
def heads():
    torch.manual_seed(0)
    return [make_head(4, 8, size) for size in (1, 1, 3, 1)]


def _expected(heads, features):
    return torch.cat([head(features) for head in heads], dim=-1)


@pytest.mark.parametrize("shape", [(2, 7, 4), (5, 4), (1, 0, 4)])
def test_all_outputs_are_those_of_the_heads_one_by_one(heads, shape):
    features = torch.randn(shape)
    with torch.no_grad():
        values = evaluate_heads(heads, features)
    assert values.shape == (*shape[:-1], 6)
    torch.testing.assert_close(values, _expected(heads, features).detach())


@pytest.mark.parametrize("size", [20.0, 1000.0, 1e6])
def test_hidden_values_of_any_size_stay_finite_and_right(heads, size):
    features = torch.randn(1, 50, 4) * size
    with torch.no_grad():
        values = evaluate_heads(heads, features)
        torch.testing.assert_close(values, _expected(heads, features), rtol=1e-5, atol=1e-4)


def test_gradients_are_recorded_where_they_are_asked_for(heads):
    features = torch.randn(1, 5, 4, requires_grad=True)
    torch.testing.assert_close(evaluate_heads(heads, features), _expected(heads, features))
    assert evaluate_heads(heads, features).requires_grad
