"""Augmentation of discriminator inputs."""

import torch
from torch import Tensor

from torch_utils.batch_random import BatchRandom
from training.augmentation.color import draw_recoloring, recolor
from training.augmentation.dice import Dice
from training.augmentation.geometry import draw_movement
from training.augmentation.settings import AugmentSettings
from training.augmentation.warp import warp

Views = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


class Augmenter:
    """Augments images together with their masks (ADA paper, appendix B).

    It has no state and no weights.
    """

    def __init__(self, settings: AugmentSettings):
        self.settings = settings

    def __call__(
        self,
        image: Tensor,  # [B, 3, H, H]
        image_raw: Tensor,  # [B, 3, h, h]
        mask: Tensor | None,  # [B, K, H, H]
        mask_raw: Tensor | None,  # [B, K, h, h]
        probability: float,
        random: BatchRandom,
    ) -> Views:
        """Transform each sample randomly, its full-size and raw views alike.

        Each transform is applied with the given probability. Masks move with their images and keep
        their values, apart from overshoot in resampling. With probability 0 the arguments are
        returned and no random numbers are used. Derivatives of all orders are exact.

        Args:
            image: In [-1, 1].
            image_raw: The same view at the rendering resolution.
            mask: Class scores in [-1, 1].
            mask_raw: The same at the rendering resolution; None if and only if `mask` is.
            probability: In 0..1; see `AdaptiveProbability`.
        """
        assert (mask is None) == (mask_raw is None)
        if self.settings.mode == "none" or probability <= 0:
            return image, image_raw, mask, mask_raw
        dice = Dice(random, probability)
        if self.settings.moves:
            inverse = draw_movement(self.settings, dice, image.shape[-1])
            image, mask = _move(image, mask, inverse)
            image_raw, mask_raw = _move(image_raw, mask_raw, inverse)
        if self.settings.with_color:
            matrix = draw_recoloring(self.settings, dice)
            image, image_raw = recolor(image, matrix), recolor(image_raw, matrix)
        return image, image_raw, mask, mask_raw


def _move(
    image: Tensor,  # [B, 3, N, N]
    mask: Tensor | None,  # [B, K, N, N]
    inverse: Tensor,  # [B, 3, 3]
) -> tuple[Tensor, Tensor | None]:
    if mask is None:
        return warp(image, inverse), None
    moved = warp(torch.cat([image, mask], dim=1), inverse)
    return moved[:, :3], moved[:, 3:]
