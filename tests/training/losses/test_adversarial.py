"""Logistic losses and R1 against closed forms."""

import math

import torch

from training.losses.adversarial import (
    discriminator_logistic_loss,
    generator_logistic_loss,
    r1_penalty,
)


def test_undecided_discriminator_costs_log_two_per_sample():
    logits = torch.zeros(3, 1)
    torch.testing.assert_close(generator_logistic_loss(logits), torch.full((3, 1), math.log(2)))
    loss = discriminator_logistic_loss(logits, logits)
    torch.testing.assert_close(loss, torch.full((3, 1), 2 * math.log(2)))


def test_r1_of_a_linear_discriminator_is_its_squared_weight():
    generator = torch.Generator().manual_seed(0)
    image_weight = torch.randn(3, 4, 4, generator=generator)
    raw_weight = torch.randn(3, 2, 2, generator=generator)
    image = torch.randn(5, 3, 4, 4, generator=generator, requires_grad=True)
    raw = torch.randn(5, 3, 2, 2, generator=generator, requires_grad=True)
    logits = (image * image_weight).sum(dim=(1, 2, 3)) + (raw * raw_weight).sum(dim=(1, 2, 3))
    expected = image_weight.square().sum() + raw_weight.square().sum()
    penalty = r1_penalty(logits.unsqueeze(1), [image, raw])
    torch.testing.assert_close(penalty, expected.expand(5))


def test_r1_is_differentiable():
    weight = torch.tensor(3.0, requires_grad=True)
    image = torch.ones(2, 1, requires_grad=True)
    r1_penalty(weight * image, [image]).sum().backward()
    torch.testing.assert_close(weight.grad, torch.tensor(2 * 2 * 3.0))
