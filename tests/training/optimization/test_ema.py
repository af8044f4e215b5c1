"""The average of weights halves the distance after its half-life and copies buffers."""

import torch
from torch import nn

from training.optimization.ema import make_average, update_average


def test_distance_to_constant_weights_halves_after_the_half_life():
    network = nn.Linear(3, 2)
    average = make_average(network)
    start = average.weight.clone()
    with torch.no_grad():
        network.weight.add_(1.0)
    for _ in range(8):
        update_average(average, network, decay=0.5 ** (1 / 8))
    torch.testing.assert_close(average.weight, start + 0.5)


def test_buffers_are_copied_not_averaged():
    network = nn.BatchNorm1d(4)
    average = make_average(network)
    network.running_mean.fill_(3.0)
    update_average(average, network, decay=0.9)
    torch.testing.assert_close(average.running_mean, network.running_mean, rtol=0, atol=0)


def test_average_is_frozen_and_in_eval_mode():
    average = make_average(nn.Linear(3, 2))
    assert not average.training
    assert not any(parameter.requires_grad for parameter in average.parameters())
