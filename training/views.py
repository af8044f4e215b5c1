"""Discriminator inputs: images at two sizes, with or without masks, blurred and augmented."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mate3d.network.discriminator import Discriminator
from torch_utils.ops.resample import blur_image, resize_antialias
from training.optimization.compilation import not_compiled
from training.step_inputs import RealBatch, StepContext


@dataclass(frozen=True)
class Views:
    """Inputs of a discriminator, all in [-1, 1]: full size, and at the rendering resolution."""

    image: Tensor  # [B, 3, H, W]
    image_raw: Tensor  # [B, 3, h, w]
    mask: Tensor | None = None  # [B, K, H, W], masks or segmentations
    mask_raw: Tensor | None = None  # [B, K, h, w]

    def blurred(self, sigma: float) -> "Views":
        """Blur full-size images and masks (spec 8.2)."""
        mask = None if self.mask is None else blur_image(self.mask, sigma)
        return replace(self, image=blur_image(self.image, sigma), mask=mask)

    def joined(self) -> tuple[Tensor, Tensor]:  # [B, 3 + K, H, W], [B, 3 + K, h, w]
        """Concatenate images and masks along channels."""
        if self.mask is None:
            return self.image, self.image_raw
        return (
            torch.cat([self.image, self.mask], dim=1),
            torch.cat([self.image_raw, self.mask_raw], dim=1),
        )

    def tensors(self) -> list[Tensor]:
        """Return the tensors that are not None."""
        values = (self.image, self.image_raw, self.mask, self.mask_raw)
        return [value for value in values if value is not None]

    def differentiable(self) -> "Views":
        """Return copies that record gradients."""
        return Views(*(value.detach().requires_grad_() for value in self.tensors()))


def discriminate(
    discriminator: Discriminator,
    views: Views,
    camera: Tensor,  # [B, 25]
    context: StepContext,
    *,
    differentiable_twice: bool = False,
) -> Tensor:  # [B, 1]
    """Return logits of images, augmented, and blurred at full size as scheduled.

    Args:
        views: Images at both sizes, with masks if the discriminator uses them.
        differentiable_twice: Run in float32 and not compiled, for gradient penalties.
    """
    views = views.blurred(context.schedule.blur_sigma)
    if context.augment is not None:
        augmented = context.augment(
            views.image, views.image_raw, views.mask, views.mask_raw, random=context.random
        )
        views = Views(*augmented)
    if context.camera_noise is not None:
        camera = camera + context.random.randn(camera.shape) * context.camera_noise
    image, image_raw = views.joined()
    with not_compiled() if differentiable_twice else context.precision.image_networks():
        return discriminator(image, image_raw, camera)


def real_views(real: RealBatch, context: StepContext, *, with_mask: bool = False) -> Views:
    """Return the discriminator inputs of real portraits.

    Raw images are resized, then blurred; raw masks are never blurred (spec 8.2).
    """
    side = context.schedule.resolution
    image_raw = blur_image(resize_antialias(real.image, side), context.schedule.blur_sigma)
    if not with_mask:
        return Views(real.image, image_raw)
    mask_raw = resize_antialias(real.one_hot_mask, side)
    return Views(real.image, image_raw, 2 * real.one_hot_mask - 1, 2 * mask_raw - 1)
