"""Non-saturating logistic GAN losses and the R1 gradient penalty."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def generator_logistic_loss(
    fake_logits: Tensor,  # [B, 1]
) -> Tensor:  # [B, 1]
    """Return -log of the probability that the discriminator calls a fake real."""
    return F.softplus(-fake_logits)


def discriminator_logistic_loss(
    fake_logits: Tensor,  # [B, 1]
    real_logits: Tensor,  # [B, 1]
) -> Tensor:  # [B, 1]
    """Return -log of the probabilities of the right answers on a fake and on a real sample."""
    return F.softplus(fake_logits) + F.softplus(-real_logits)


def r1_penalty(
    real_logits: Tensor,  # [B, 1]
    inputs: Sequence[Tensor],  # each [B, ...], requiring gradients
) -> Tensor:  # [B]
    """Return the squared norm of the logits' gradient, summed over all inputs (Mescheder 2018)."""
    gradients = torch.autograd.grad(real_logits.sum(), list(inputs), create_graph=True)
    return sum(gradient.square().flatten(1).sum(dim=1) for gradient in gradients)
