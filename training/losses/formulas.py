"""The terms of training as formulas: adversarial, R1, and those of the geometry."""

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


def minimal_surface_loss(
    sdf: Tensor,  # [...], world units
    *,
    sharpness: float = 100.0,
) -> Tensor:  # scalar
    """Return the mean of exp(-sharpness |d|), which charges for every zero crossing.

    Args:
        sdf: Signed distances at samples of the volume.
        sharpness: Inverse width of the counted shell, per world unit.
    """
    return torch.exp(-sharpness * sdf.abs()).mean()


def density_consistency_loss(
    density: Tensor,  # [B, N, 1], per world unit
    class_density: Tensor,  # [B, N, K]
    *,
    with_detached_whole: bool = True,
) -> Tensor:  # scalar
    """Return MSE between the whole's density and the sum of the parts' densities."""
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
    """Return L1 of the whole and of every part against a sphere around the origin (spec 8.6)."""
    target = points.norm(dim=-1, keepdim=True) - radius
    errors = (torch.cat([sdf, class_sdf], dim=-1) - target).abs()
    return errors.flatten(0, -2).mean(dim=0).sum()


def class_color_consistency_loss(
    class_images: Tensor,  # [B, K, 3, h, w] in [-1, 1], each part rendered alone
    image_raw: Tensor,  # [B, 3, h, w] in [-1, 1]
    segmentation_raw: Tensor,  # [B, K, h, w]
) -> Tensor:  # scalar
    """Return MSE between each part rendered alone and the image cut out by its mask.

    Args:
        class_images: One image a class, composited with that class's density.
        image_raw: The raw render.
        segmentation_raw: Its class scores.
    """
    num_classes = segmentation_raw.shape[1]
    one_hot = F.one_hot(segmentation_raw.argmax(dim=1), num_classes).permute(0, 3, 1, 2)
    target = (image_raw + 1).unsqueeze(1) * one_hot.unsqueeze(2) - 1
    # The release leaves out the skin (spec 8.3).
    kept = [index for index in range(num_classes) if index != 1]
    return F.mse_loss(class_images[:, kept], target[:, kept].detach())


def color_consistency_loss(
    class_images: Tensor,  # [B, K, 3, h, w] in [-1, 1]
    image_raw: Tensor,  # [B, 3, h, w] in [-1, 1]
    *,
    with_detached_whole: bool = True,
) -> Tensor:  # scalar
    """Return MSE between the image and the sum of its parts, both halved to about 0..1."""
    whole = (image_raw + 1) / 2
    parts = (class_images + 1).sum(dim=1) / 2
    return F.mse_loss(parts, whole.detach() if with_detached_whole else whole)
