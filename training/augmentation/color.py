"""Random changes of colour as homogeneous matrices (ADA paper, appendix B)."""

import math

import torch
from torch import Tensor

from torch_utils.precision import own_precision
from training.augmentation.dice import Dice
from training.augmentation.geometry import compose
from training.augmentation.settings import AugmentSettings


def draw_recoloring(settings: AugmentSettings, dice: Dice) -> Tensor:  # [B, 4, 4]
    """Draw the matrix of each sample that takes (red, green, blue, 1), colours in [-1, 1].

    Applied in this order: brightness, contrast, lightness inverted, hue, saturation.
    """
    brightness = torch.where(dice.hits(), dice.normal(settings.brightness), 0)
    contrast = torch.where(dice.hits(), dice.log_normal(settings.contrast_octaves), 1)
    flip = torch.where(dice.hits(), dice.integer(2), 0)
    limit = math.radians(settings.hue_degrees)
    hue = torch.where(dice.hits(), dice.uniform(-limit, limit), 0)
    saturation = torch.where(dice.hits(), dice.log_normal(settings.saturation_octaves), 1)
    matrix = _shift(brightness)
    for step in (_scale(contrast), _luma_flip(flip), _hue_rotation(hue), _saturate(saturation)):
        matrix = compose(step, matrix)
    return matrix


def recolor(
    image: Tensor,  # [B, 3, H, W]
    matrix: Tensor,  # [B, 4, 4]
) -> Tensor:  # [B, 3, H, W]
    """Apply a matrix to every pixel; results may leave [-1, 1]."""
    matrix = matrix.to(image.dtype)
    with own_precision(image):
        colors = torch.baddbmm(matrix[:, :3, 3:], matrix[:, :3, :3], image.flatten(2))
    return colors.view_as(image)


def _shift(amount: Tensor) -> Tensor:  # [B] -> [B, 4, 4]
    return _homogeneous(torch.eye(3, device=amount.device).expand(len(amount), 3, 3), amount)


def _scale(factor: Tensor) -> Tensor:  # [B] -> [B, 4, 4]
    return _homogeneous(factor[:, None, None] * torch.eye(3, device=factor.device))


def _luma_flip(flip: Tensor) -> Tensor:  # [B], 0 or 1 -> [B, 4, 4]
    """Mirror at the plane through black's and white's middle that is normal to grey."""
    grey = _grey(flip)
    identity = torch.eye(3, device=flip.device)
    return _homogeneous(identity - 2 * flip[:, None, None] * grey)


def _hue_rotation(angle: Tensor) -> Tensor:  # [B], radians -> [B, 4, 4]
    """Turn about the axis of greys (Rodrigues' formula)."""
    grey = _grey(angle)
    third = 1 / math.sqrt(3)
    cross = torch.tensor(
        [[0, -third, third], [third, 0, -third], [-third, third, 0]], device=angle.device
    )
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    identity = torch.eye(3, device=angle.device)
    return _homogeneous(cos * identity + sin * cross + (1 - cos) * grey)


def _saturate(factor: Tensor) -> Tensor:  # [B] -> [B, 4, 4]
    """Multiply the distance from the axis of greys."""
    grey = _grey(factor)
    identity = torch.eye(3, device=factor.device)
    return _homogeneous(grey + factor[:, None, None] * (identity - grey))


def _grey(like: Tensor) -> Tensor:  # [3, 3]
    """Return the projection on the axis of greys."""
    return torch.full((3, 3), 1 / 3, device=like.device)


def _homogeneous(
    linear: Tensor,  # [B, 3, 3]
    offset: Tensor | None = None,  # [B], equal for all colours
) -> Tensor:  # [B, 4, 4]
    matrix = torch.zeros(len(linear), 4, 4, device=linear.device)
    matrix[:, :3, :3] = linear
    matrix[:, 3, 3] = 1
    if offset is not None:
        matrix[:, :3, 3] = offset[:, None]
    return matrix
