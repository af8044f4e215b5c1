"""Random geometric transforms of images as affine maps (ADA paper, appendix B).

Maps go from the augmented image to the original, as resampling requires, so the inverses of
transforms are composed. Points are (x right, y down, 1) in units of the image's side, relative to
its centre, so a map applies to every resolution of an image.
"""

import math
from functools import reduce

import torch
from torch import Tensor

from training.augmentation.dice import Dice
from training.augmentation.settings import AugmentSettings


def draw_movement(
    settings: AugmentSettings, dice: Dice, side: int
) -> Tensor:  # [B, 3, 3], augmented -> original
    """Sample the geometric transform of each sample.

    Args:
        settings: Transforms and their strengths; at least one must be geometric.
        side: Side of the image whose pixel grid is used for integer shifts.
    """
    return reduce(compose, _draw_steps(settings, dice, side))


def compose(
    first: Tensor,  # [B, n, n]
    second: Tensor,  # [B, n, n]
) -> Tensor:  # [B, n, n]
    """Return the matrix product at full precision, regardless of TF32 and autocast."""
    return (first[:, :, :, None] * second[:, None]).sum(dim=2)


def translation(x: Tensor, y: Tensor) -> Tensor:  # [B] -> [B, 3, 3]
    """Return maps that add (x, y)."""
    matrix = torch.eye(3, dtype=x.dtype, device=x.device).repeat(len(x), 1, 1)
    matrix[:, :2, 2] = torch.stack([x, y], dim=1)
    return matrix


def scaling(x: Tensor, y: Tensor) -> Tensor:  # [B] -> [B, 3, 3]
    """Return maps that multiply by (x, y)."""
    return torch.stack([x, y, torch.ones_like(x)], dim=1).diag_embed()


def rotation(angle: Tensor) -> Tensor:  # [B] -> [B, 3, 3]
    """Return rotations from x towards y by an angle in radians."""
    sin, cos = angle.sin(), angle.cos()
    matrix = torch.eye(3, dtype=angle.dtype, device=angle.device).repeat(len(angle), 1, 1)
    matrix[:, :2, :2] = torch.stack([cos, -sin, sin, cos], dim=1).unflatten(1, (2, 2))
    return matrix


def _draw_steps(settings: AugmentSettings, dice: Dice, side: int) -> list[Tensor]:
    """Sample the inverses of all transforms, in the order in which they are applied to an image."""
    steps = []
    if settings.with_flip:
        sign = 1 - 2 * dice.integer(2)
        steps.append(_where(dice.hits(), scaling(sign, torch.ones_like(sign))))
    if settings.with_quarter_turns:
        steps.append(_where(dice.hits(), rotation(dice.integer(4) * (math.pi / 2))))
    if settings.with_blit:
        x, y = (dice.uniform(-settings.shift, settings.shift) for _ in range(2))
        pixels = translation((x * side).round() / side, (y * side).round() / side)
        steps.append(_where(dice.hits(), pixels))
    if settings.with_geometry:
        steps += _draw_general_steps(settings, dice)
    return steps


def _draw_general_steps(settings: AugmentSettings, dice: Dice) -> list[Tensor]:
    scale = dice.log_normal(settings.scale_octaves)
    steps = [_where(dice.hits(), scaling(scale, scale))]
    steps.append(_draw_rotation(settings, dice))
    stretch = dice.log_normal(settings.scale_octaves)
    steps.append(_where(dice.hits(), scaling(stretch, 1 / stretch)))
    steps.append(_draw_rotation(settings, dice))
    x, y = (dice.normal(settings.translation) for _ in range(2))
    return [*steps, _where(dice.hits(), translation(x, y))]


def _draw_rotation(settings: AugmentSettings, dice: Dice) -> Tensor:  # [B, 3, 3]
    """Sample one of two rotations; at least one is applied with the common probability."""
    limit = math.radians(settings.rotation_degrees)
    one_of_two = 1 - math.sqrt(1 - dice.probability)
    return _where(dice.hits(one_of_two), rotation(dice.uniform(-limit, limit)))


def _where(hit: Tensor, matrices: Tensor) -> Tensor:  # [B], [B, 3, 3] -> [B, 3, 3]
    return torch.where(hit[:, None, None], matrices, torch.eye(3, device=hit.device))
