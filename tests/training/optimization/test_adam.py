"""Adam with the lazy correction, and updates of one network only."""

import pytest
import torch
from torch import nn

from training.optimization.adam import OptimizerSettings, make_adam, optimizing, sanitize_gradients


def test_lazy_steps_scale_rate_and_decays():
    settings = OptimizerSettings(beta1=0.5, beta2=0.99)
    parameters = list(nn.Linear(2, 2).parameters())
    (group,) = make_adam(parameters, 0.002, settings, reg_interval=16).param_groups
    assert group["lr"] == pytest.approx(0.002 * 16 / 17)
    assert group["betas"] == pytest.approx((0.5 ** (16 / 17), 0.99 ** (16 / 17)))
    assert make_adam(parameters, 0.002, settings).param_groups[0]["lr"] == 0.002


def test_gradients_are_on_within_the_block_only_whose_failure_leaves_the_weights():
    network = nn.Linear(2, 1).requires_grad_(False)
    before = network.weight.clone()
    optimizer = make_adam(network.parameters(), 0.1, OptimizerSettings())
    with pytest.raises(ZeroDivisionError), optimizing(network, optimizer):
        raise ZeroDivisionError
    assert not network.weight.requires_grad and network.weight.equal(before)
    with optimizing(network, optimizer):
        assert network.weight.requires_grad
        network(torch.ones(1, 2)).sum().backward()
    assert not network.weight.requires_grad and not network.weight.equal(before)


def test_bad_gradients_are_made_finite():
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.tensor([float("nan"), float("inf"), -float("inf"), 2.0])
    sanitize_gradients([parameter, nn.Parameter(torch.zeros(1))])
    assert parameter.grad.tolist() == [0.0, 1e5, -1e5, 2.0]


def test_gradients_are_measured_before_bad_ones_are_mended():
    network = nn.ModuleDict({"first": nn.Linear(2, 1), "second": nn.Linear(2, 1)})
    network.unused = nn.Parameter(torch.zeros(2))
    with optimizing(network, make_adam(network.parameters(), 0.1, OptimizerSettings())) as found:
        network["first"].weight.grad = torch.tensor([[3.0, 4.0]])
        network["second"].weight.grad = torch.tensor([[float("nan"), 1.0]])
        network["second"].bias.grad = torch.tensor([12.0])
    measured = {name: float(value) for name, value in found.items()}
    assert measured == {"norm": 13.0, "norm/first": 5.0, "norm/second": 12.0, "non_finite": 1.0}
    assert network["second"].weight.grad.isfinite().all()
