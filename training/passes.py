"""What the training steps share: their inputs, and running the networks on them."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mate3d.discriminator import Discriminator
from mate3d.field import TriPlaneField
from mate3d.generator import Generator, RenderOutput
from mate3d.layers import NoiseMode
from mate3d.rays import DepthDraws
from torch_utils.ops.blur import blur_image
from torch_utils.ops.resize import resize_antialias
from training.losses.terms import LossSettings
from training.schedules import ScheduleValues


@dataclass
class Networks:
    """What is trained."""

    generator: Generator
    discriminator: Discriminator
    semantic_discriminator: Discriminator


@dataclass(frozen=True)
class Latents:
    """What images are generated from.

    Args:
        z: Standard normal, [B, z_dim].
        camera: Cameras drawn from the data set, [B, 25]; viewpoints, and conditioning but for
            swaps.
    """

    z: Tensor
    camera: Tensor


@dataclass(frozen=True)
class RealBatch:
    """Real portraits.

    Args:
        image: [B, 3, H, W] in [-1, 1].
        one_hot_mask: [B, K, H, W].
        camera: [B, 25].
    """

    image: Tensor
    one_hot_mask: Tensor
    camera: Tensor


@dataclass(frozen=True)
class StepContext:
    """What holds for all steps of an iteration.

    Args:
        schedule: Blur, resolution and pose swap of this moment.
        random: Source of random numbers on the training device; None is PyTorch's default.
        noise_mode: Backbone noise; training takes "random".
        depth_mode: Depth sampling; training takes "random".
    """

    schedule: ScheduleValues
    random: torch.Generator | None = None
    noise_mode: NoiseMode = "random"
    depth_mode: Literal["fixed", "random"] = "random"


def draw_latents(
    batch_size: int,
    z_dim: int,
    cameras: Tensor,  # [N, 25], on the device of `random`
    random: torch.Generator,
) -> Latents:
    """Draw normal latents and, for each, one of the data set's cameras."""
    z = torch.randn((batch_size, z_dim), generator=random, device=random.device)
    chosen = torch.randint(len(cameras), (batch_size,), generator=random, device=random.device)
    return Latents(z, cameras[chosen])


def swap_cameras(
    camera: Tensor,  # [B, 25]
    probability: float | None,
    random: torch.Generator | None = None,
    *,
    swap_together: bool = False,
) -> Tensor:  # [B, 25]
    """Return conditioning cameras, each replaced by its neighbour's with some probability.

    Args:
        camera: The cameras that images are rendered from.
        probability: Of a swap (the batch rolled by one); None conditions on zeros.
        random: Source of random numbers.
        swap_together: Decide once for the whole batch.
    """
    if probability is None:
        return torch.zeros_like(camera)
    num_draws = 1 if swap_together else len(camera)
    draws = torch.rand((num_draws, 1), generator=random, device=camera.device)
    return torch.where(draws < probability, camera.roll(1, dims=0), camera)


def make_styles(
    generator: Generator, latents: Latents, context: StepContext, *, swap_together: bool = False
) -> Tensor:  # [B, L, w_dim]
    """Map latents to style vectors, conditioned on swapped cameras."""
    condition = swap_cameras(
        latents.camera,
        context.schedule.pose_swap_probability,
        context.random,
        swap_together=swap_together,
    )
    return generator.map(latents.z, condition)


def render_head(
    generator: Generator,
    head: TriPlaneField,
    ws: Tensor,  # [B, L, w_dim]
    latents: Latents,
    loss: LossSettings,
    context: StepContext,
    *,
    with_samples: bool = False,
) -> RenderOutput:
    """Render a head at the scheduled resolution with the detachments of the loss settings."""
    return generator.render(
        head,
        ws,
        latents.camera,
        neural_rendering_resolution=context.schedule.resolution,
        draws=DepthDraws(mode=context.depth_mode, generator=context.random),
        with_samples=with_samples,
        detach_semantic_density=loss.with_detached_whole,
        detach_semantic_features=loss.with_detached_semantic_features,
    )


@torch.no_grad()
def generate_fakes(
    generator: Generator, latents: Latents, loss: LossSettings, context: StepContext
) -> RenderOutput:
    """Render for a discriminator's step, which is also when the average of w moves (spec 8.2)."""
    ws = make_styles(generator, latents, context)
    generator.mapping.update_average(ws)
    head = generator.make_field(ws, noise_mode=context.noise_mode)
    return render_head(generator, head, ws, latents, loss, context)


def discriminate(
    discriminator: Discriminator,
    image: Tensor,  # [B, C, H, W]
    image_raw: Tensor,  # [B, C, h, w]
    camera: Tensor,  # [B, 25]
    context: StepContext,
) -> Tensor:  # [B, 1]
    """Return logits of full-size images blurred as scheduled; raw ones come as they are."""
    return discriminator(blur_image(image, context.schedule.blur_sigma), image_raw, camera)


def real_raw(
    real: RealBatch,
    context: StepContext,
) -> Tensor:  # [B, 3, h, w]
    """Return what a raw render is compared with: the image resized, then blurred."""
    side = context.schedule.resolution
    return blur_image(resize_antialias(real.image, side), context.schedule.blur_sigma)


def real_with_mask(
    real: RealBatch,
    context: StepContext,
) -> tuple[Tensor, Tensor]:  # [B, 3 + K, H, W], [B, 3 + K, h, w]
    """Join real images and masks in [-1, 1]; raw masks are never blurred (spec 8.2)."""
    side = context.schedule.resolution
    mask_raw = resize_antialias(real.one_hot_mask, side)
    return (
        torch.cat([real.image, 2 * real.one_hot_mask - 1], dim=1),
        torch.cat([real_raw(real, context), 2 * mask_raw - 1], dim=1),
    )
