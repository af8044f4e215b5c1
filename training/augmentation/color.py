"""Random colour transforms as affine matrices (ADA paper, appendix B)."""

import math

import torch
from torch import Tensor

from torch_utils.ops.execution import own_precision
from training.augmentation.dice import Dice
from training.augmentation.geometry import compose
from training.augmentation.settings import AugmentSettings


def draw_recoloring(settings: AugmentSettings, dice: Dice) -> Tensor:  # [B, 3, 4]
    """Sample each sample's matrix, to be applied to (red, green, blue, 1) in [-1, 1].

    Order of transforms: brightness, contrast, lightness inversion, hue, saturation.
    """
    brightness = torch.where(dice.hits(), dice.normal(settings.brightness), 0)
    contrast = torch.where(dice.hits(), dice.log_normal(settings.contrast_octaves), 1)
    flip = torch.where(dice.hits(), dice.integer(2), 0)
    limit = math.radians(settings.hue_degrees)
    hue = torch.where(dice.hits(), dice.uniform(-limit, limit), 0)
    saturation = torch.where(dice.hits(), dice.log_normal(settings.saturation_octaves), 1)
    identity = torch.eye(3, device=hue.device)
    # Projection on the grey axis.
    grey = torch.full((3, 3), 1 / 3, device=hue.device)
    linear = contrast[:, None, None] * identity
    for step in (
        # Reflection at the plane through mid-grey that is normal to the grey axis.
        identity - 2 * flip[:, None, None] * grey,
        _hue_rotation(hue, grey),
        grey + saturation[:, None, None] * (identity - grey),
    ):
        linear = compose(step, linear)
    offset = brightness[:, None, None] * linear.sum(dim=2, keepdim=True)
    return torch.cat([linear, offset], dim=2)


def recolor(
    image: Tensor,  # [B, 3, H, W]
    matrix: Tensor,  # [B, 3, 4]
) -> Tensor:  # [B, 3, H, W]
    """Apply a matrix to every pixel; results may leave [-1, 1]."""
    matrix = matrix.to(image.dtype)
    with own_precision(image):
        colors = torch.baddbmm(matrix[:, :, 3:], matrix[:, :, :3], image.flatten(2))
    return colors.view_as(image)


def _hue_rotation(angle: Tensor, grey: Tensor) -> Tensor:  # [B] in radians, [3, 3] -> [B, 3, 3]
    """Return rotations about the grey axis (Rodrigues' formula)."""
    third = 1 / math.sqrt(3)
    cross = torch.tensor([[0, -third, third], [third, 0, -third], [-third, third, 0]])
    cross = cross.to(grey.device, non_blocking=True)
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return cos * torch.eye(3, device=angle.device) + sin * cross + (1 - cos) * grey
