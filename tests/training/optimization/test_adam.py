"""Adam with the lazy correction, and updates of one network only."""

import pytest
import torch
from torch import nn

from mate3d.errors import UserError
from training.losses.terms import LossSettings
from training.optimization.adam import OptimizerSettings, make_adam, optimizing, sanitize_gradients


def test_lazy_correction_scales_rate_and_decays():
    settings = OptimizerSettings(beta1=0.5, beta2=0.99)
    optimizer = make_adam(nn.Linear(2, 2).parameters(), 0.002, settings, reg_interval=16)
    (group,) = optimizer.param_groups
    assert group["lr"] == pytest.approx(0.002 * 16 / 17)
    assert group["betas"] == pytest.approx((0.5 ** (16 / 17), 0.99 ** (16 / 17)))


def test_no_lazy_step_means_no_correction():
    optimizer = make_adam(nn.Linear(2, 2).parameters(), 0.002, OptimizerSettings())
    assert optimizer.param_groups[0]["lr"] == 0.002


def test_gradients_are_on_within_the_block_only():
    network = nn.Linear(2, 1).requires_grad_(False)
    before = network.weight.clone()
    with optimizing(network, make_adam(network.parameters(), 0.1, OptimizerSettings())):
        assert network.weight.requires_grad
        network(torch.ones(1, 2)).sum().backward()
    assert not network.weight.requires_grad
    assert not network.weight.equal(before)


def test_weights_stay_when_the_step_fails():
    network = nn.Linear(2, 1).requires_grad_(False)
    before = network.weight.clone()
    optimizer = make_adam(network.parameters(), 0.1, OptimizerSettings())
    with pytest.raises(ZeroDivisionError), optimizing(network, optimizer):
        raise ZeroDivisionError
    assert not network.weight.requires_grad
    assert network.weight.equal(before)


def test_bad_gradients_are_made_finite():
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.tensor([float("nan"), float("inf"), -float("inf"), 2.0])
    sanitize_gradients([parameter, nn.Parameter(torch.zeros(1))])
    assert parameter.grad.tolist() == [0.0, 1e5, -1e5, 2.0]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: OptimizerSettings(generator_lr=-1.0), "optimizer.generator_lr=-1.0"),
        (lambda: OptimizerSettings(beta2=1.0), "optimizer.beta2=1.0"),
        (lambda: OptimizerSettings(generator_reg_interval=0), "generator_reg_interval=0"),
        (lambda: LossSettings(r1_gamma=-1.0), "loss.r1_gamma=-1.0"),
        (lambda: LossSettings(eikonal=float("inf")), "loss.eikonal=inf"),
    ],
)
def test_impossible_rates_and_weights_are_named(make, named):
    with pytest.raises(UserError, match=named):
        make()
