"""What the training steps share: their inputs, and running the networks on them."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mate3d.discriminator import Discriminator
from mate3d.fast_rendering import render_field_fast
from mate3d.field import TriPlaneField
from mate3d.generator import Generator, RenderOutput
from mate3d.layers import NoiseMode
from mate3d.rays import DepthDraws, sample_rays
from mate3d.renderer import RaySamples, evaluate_rays, render_field, sample_depths
from torch_utils.ops.blur import blur_image
from torch_utils.ops.resize import resize_antialias
from training.compilation import not_compiled
from training.losses.terms import LossSettings
from training.precision import TrainingPrecision
from training.schedules import ScheduleValues

# Samples of fakes for the discriminators that weigh less are left out, see `render_field_fast`.
_NEGLIGIBLE_WEIGHT = 1e-6


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
        precision: Of backbone, super-resolutions and discriminators; all else is float32.
        scaler: Keeps small gradients of float16 above zero; disabled for other precisions.
    """

    schedule: ScheduleValues
    random: torch.Generator | None = None
    noise_mode: NoiseMode = "random"
    depth_mode: Literal["fixed", "random"] = "random"
    precision: TrainingPrecision = TrainingPrecision()
    scaler: torch.amp.GradScaler | None = None

    def backward(
        self,
        total: Tensor,  # scalar
    ) -> None:
        """Add the gradients of a loss, scaled if there is a scaler, to the weights' own."""
        (total if self.scaler is None else self.scaler.scale(total)).backward()


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


def make_head(
    generator: Generator,
    ws: Tensor,  # [B, L, w_dim]
    context: StepContext,
    *,
    exact: bool = True,
) -> TriPlaneField:
    """Return heads as a field in float32, whatever the precision of the backbone."""
    with context.precision.autocast():
        texture_planes, shape_planes = generator.make_planes(
            ws, noise_mode=context.noise_mode, exact=exact
        )
    planes = (texture_planes.float(), shape_planes.float())
    if shape_planes is texture_planes:
        planes = (planes[0], planes[0])
    return generator.make_field(ws, planes)


def render_head(
    generator: Generator,
    head: TriPlaneField,
    ws: Tensor,  # [B, L, w_dim]
    latents: Latents,
    loss: LossSettings,
    context: StepContext,
    *,
    with_samples: bool = False,
    with_sdf_gradient: bool = False,
) -> RenderOutput:
    """Render a head at the scheduled resolution with the detachments of the loss settings.

    Rays, samples and compositing are float32; the super-resolutions run in the context's precision.

    Args:
        generator: Super-resolves.
        head: What to render; there is no segmentation of one without classes. It is enlarged for
            the image-and-mask discriminator only.
        ws: Style vectors of the super-resolution.
        latents: Viewpoints.
        loss: Detachments.
        context: Resolution, depths, precision.
        with_samples: Also return per-sample values.
        with_sdf_gradient: With the gradient of the distance among them.
    """
    view = render_field(
        head,
        *sample_rays(latents.camera, context.schedule.resolution),
        generator.config.rendering,
        draws=_depth_draws(context),
        with_normals=with_sdf_gradient,
        with_samples=with_samples,
        detach_semantic_density=loss.with_detached_whole,
    )
    seen = view if loss.has_semantic_discriminator else replace(view, segmentation_raw=None)
    with context.precision.autocast():
        output = generator.superresolve(
            seen, ws, detach_semantic_features=loss.with_detached_semantic_features
        )
    return replace(_in_single_precision(output), segmentation_raw=view.segmentation_raw)


def sample_head(
    generator: Generator, head: TriPlaneField, latents: Latents, context: StepContext
) -> RaySamples:
    """Return a head's values along the rays of its view, without making a picture."""
    rays = sample_rays(latents.camera, context.schedule.resolution)
    config = generator.config.rendering
    depths = sample_depths(head, *rays, config, _depth_draws(context))
    return evaluate_rays(head, *rays, depths, config)


@torch.no_grad()
def generate_fakes(
    generator: Generator, latents: Latents, context: StepContext, *, with_segmentation: bool
) -> RenderOutput:
    """Render for a discriminator's step, which is also when the average of w moves (spec 8.2).

    Nothing is differentiated, so the generator's fast way serves; it leaves out what a
    discriminator could not tell from rounding.
    """
    ws = make_styles(generator, latents, context)
    generator.mapping.update_average(ws)
    head = make_head(generator, ws, context, exact=False)
    view = render_field_fast(
        head,
        *sample_rays(latents.camera, context.schedule.resolution),
        generator.config.rendering,
        draws=_depth_draws(context),
        with_segmentation=with_segmentation,
        negligible_weight=_NEGLIGIBLE_WEIGHT,
    )
    with context.precision.autocast():
        output = generator.superresolve(view, ws, exact=False)
    return _in_single_precision(output)


def _depth_draws(context: StepContext) -> DepthDraws:
    return DepthDraws(mode=context.depth_mode, generator=context.random)


def _in_single_precision(output: RenderOutput) -> RenderOutput:
    segmentation = output.segmentation
    return replace(
        output,
        image=output.image.float(),
        segmentation=None if segmentation is None else segmentation.float(),
    )


def discriminate(
    discriminator: Discriminator,
    image: Tensor,  # [B, C, H, W]
    image_raw: Tensor,  # [B, C, h, w]
    camera: Tensor,  # [B, 25]
    context: StepContext,
    *,
    differentiable_twice: bool = False,
) -> Tensor:  # [B, 1]
    """Return logits of full-size images blurred as scheduled; raw ones come as they are.

    Args:
        discriminator: Of images, or of images and masks.
        image: Full-size images, or images and masks.
        image_raw: The same at rendering resolution.
        camera: The cameras of the images.
        context: Blur and precision.
        differentiable_twice: For penalties on gradients: in float32 and not compiled.
    """
    image = blur_image(image, context.schedule.blur_sigma)
    if differentiable_twice:
        with not_compiled():
            return discriminator(image, image_raw, camera)
    with context.precision.autocast():
        return discriminator(image, image_raw, camera)


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
