"""Formulas of the loss terms: adversarial, R1 and geometry."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def generator_logistic_loss(
    fake_logits: Tensor,  # [B, 1]
) -> Tensor:  # [B, 1]
    """Return -log of the probability that the discriminator assigns to a fake being real."""
    return F.softplus(-fake_logits)


def discriminator_logistic_loss(
    fake_logits: Tensor,  # [B, 1]
    real_logits: Tensor,  # [B, 1]
) -> Tensor:  # [B, 1]
    """Return -log of the probabilities of correct answers for a fake and a real sample."""
    return F.softplus(fake_logits) + F.softplus(-real_logits)


def r1_penalty(
    real_logits: Tensor,  # [B, 1]
    inputs: Sequence[Tensor],  # each [B, ...], requiring gradients
) -> Tensor:  # [B]
    """Return the squared norm of the logits' gradient, summed over all inputs (Mescheder 2018)."""
    gradients = torch.autograd.grad(real_logits.sum(), list(inputs), create_graph=True)
    return sum(gradient.square().flatten(1).sum(dim=1) for gradient in gradients)


def minimal_surface_loss(
    sdf: Tensor,  # [...], world units
    *,
    sharpness: float = 100.0,
) -> Tensor:  # scalar
    """Return the mean of exp(-sharpness |d|), which penalises every zero crossing.

    Args:
        sharpness: Inverse width of the penalised shell, per world unit.
    """
    return torch.exp(-sharpness * sdf.abs()).mean()


def density_consistency_loss(
    density: Tensor,  # [B, N, 1], per world unit
    class_density: Tensor,  # [B, N, K]
    *,
    with_detached_whole: bool = True,
) -> Tensor:  # scalar
    """Return the MSE between the global density and the sum of class densities."""
    total = class_density.sum(dim=-1, keepdim=True)
    return F.mse_loss(total, density.detach() if with_detached_whole else density)


def density_smoothness_loss(
    density: Tensor,  # [B, N, 1]
    density_nearby: Tensor,  # [B, N, 1], at slightly displaced points
) -> Tensor:  # scalar
    """Return the mean absolute difference of density between neighbouring points (spec 8.4)."""
    return (density - density_nearby).abs().mean()


def sphere_initialization_loss(
    sdf: Tensor,  # [B, N, 1]
    class_sdf: Tensor,  # [B, N, K]
    points: Tensor,  # [B, N, 3], world
    *,
    radius: float,
) -> Tensor:  # scalar
    """Return the L1 error of all SDFs against a sphere around the origin (spec 8.6)."""
    target = points.norm(dim=-1, keepdim=True) - radius
    errors = (torch.cat([sdf, class_sdf], dim=-1) - target).abs()
    return errors.flatten(0, -2).mean(dim=0).sum()


def class_color_consistency_loss(
    class_images: Tensor,  # [B, K, 3, h, w] in [-1, 1], each part rendered alone
    image_raw: Tensor,  # [B, 3, h, w] in [-1, 1]
    segmentation_raw: Tensor,  # [B, K, h, w]
) -> Tensor:  # scalar
    """Return the MSE between each part rendered alone and the image masked by its class."""
    num_classes = segmentation_raw.shape[1]
    one_hot = F.one_hot(segmentation_raw.argmax(dim=1), num_classes).permute(0, 3, 1, 2)
    target = (image_raw + 1).unsqueeze(1) * one_hot.unsqueeze(2) - 1
    # The released code leaves out the skin, class 1 (spec 8.3).
    kept, wanted = (torch.cat([x[:, :1], x[:, 2:]], dim=1) for x in (class_images, target.detach()))
    return F.mse_loss(kept, wanted)


def color_consistency_loss(
    class_images: Tensor,  # [B, K, 3, h, w] in [-1, 1]
    image_raw: Tensor,  # [B, 3, h, w] in [-1, 1]
    *,
    with_detached_whole: bool = True,
) -> Tensor:  # scalar
    """Return the MSE between the image and the sum of its parts, both scaled to about 0..1."""
    whole = (image_raw + 1) / 2
    parts = (class_images + 1).sum(dim=1) / 2
    return F.mse_loss(parts, whole.detach() if with_detached_whole else whole)
