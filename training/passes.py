"""What the training steps share: their inputs, and running the networks on them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mate3d.generator import Generator, RenderOutput
from mate3d.network.discriminator import Discriminator
from mate3d.network.layers import Noise, NoiseMode
from mate3d.rendering.fast_rendering import render_field_fast
from mate3d.rendering.field import TriPlaneField
from mate3d.rendering.rays import DepthDraws, sample_rays
from mate3d.rendering.renderer import RaySamples, evaluate_rays, render_field, sample_depths
from torch_utils.batch_random import BatchRandom
from training.losses.terms import LossSettings
from training.optimization.precision import TrainingPrecision
from training.optimization.schedules import ScheduleValues

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
        other_camera: What conditions a swapped sample: the camera of its neighbour in the whole
            batch, of which this may be a part; None takes the neighbour here.
    """

    z: Tensor
    camera: Tensor
    other_camera: Tensor | None = None


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
        random: Source of random numbers of the samples on the training device. None is for steps
            that draw nothing.
        noise_mode: Backbone noise; training takes "random".
        depth_mode: Depth sampling; training takes "random".
        precision: Of backbone, super-resolutions and discriminators; all else is float32.
        scaler: Keeps small gradients of float16 above zero; disabled for other precisions.
        camera_noise: Standard deviation of noise on the cameras that condition the discriminators,
            [25]; None for no noise.
        augment: Transforms images, raw images, masks and raw masks before any discriminator sees
            them; None leaves them as they are.
        interval: Iterations from one step of a kind to the next; gradients are multiplied by it.
        share: Of this part in the batch of the process, by which its gradients are weighted.
    """

    schedule: ScheduleValues
    random: BatchRandom | None = None
    noise_mode: NoiseMode = "random"
    depth_mode: Literal["fixed", "random"] = "random"
    precision: TrainingPrecision = TrainingPrecision()
    scaler: torch.amp.GradScaler | None = None
    camera_noise: Tensor | None = None
    augment: Callable[..., tuple[Tensor | None, ...]] | None = None
    interval: int = 1
    share: float = 1.0

    def backward(
        self,
        total: Tensor,  # scalar
    ) -> None:
        """Add the gradients of a loss, scaled if there is a scaler, to the weights' own."""
        total = total * self.interval * self.share
        (total if self.scaler is None else self.scaler.scale(total)).backward()


def draw_latents(
    z_dim: int,
    cameras: Tensor,  # [N, 25]
    random: BatchRandom,
    others: BatchRandom | None = None,
) -> Latents:
    """Draw normal latents and, for each, one of the data set's cameras.

    Args:
        z_dim: Width of latents.
        cameras: Of the data set, on the device of `random`.
        random: One source a sample, from which nothing was drawn yet.
        others: Those of each sample's neighbour, likewise; None leaves the neighbour open.
    """
    camera = _choose_cameras(cameras, random)
    return Latents(
        z=random.randn((len(random), z_dim)),
        camera=camera,
        other_camera=None if others is None else _choose_cameras(cameras, others),
    )


def _choose_cameras(cameras: Tensor, random: BatchRandom) -> Tensor:  # [B, 25]
    # In double precision, as there may be more cameras than single precision has numbers.
    draws = random.rand((len(random),), torch.float64)
    return cameras[(draws * len(cameras)).long()]


def condition_cameras(
    latents: Latents,
    probability: float | None,
    random: BatchRandom | None = None,
    *,
    swap_together: bool = False,
) -> Tensor:  # [B, 25]
    """Return conditioning cameras, each replaced by its neighbour's with some probability.

    Args:
        latents: Their cameras are what images are rendered from.
        probability: Of a swap; None conditions on zeros.
        random: Source of random numbers; not read if the probability is 0 or 1.
        swap_together: Decide once for the whole batch.
    """
    camera, other = latents.camera, latents.other_camera
    if probability is None:
        return torch.zeros_like(camera)
    if other is None:
        other = camera.roll(1, dims=0)
    if probability in (0.0, 1.0):
        return other if probability else camera
    if swap_together:
        draws = torch.rand((1, 1), generator=random.shared, device=camera.device)
    else:
        draws = random.rand((len(camera), 1))
    return torch.where(draws < probability, other, camera)


def make_styles(
    generator: Generator, latents: Latents, context: StepContext, *, swap_together: bool = False
) -> Tensor:  # [B, L, w_dim]
    """Map latents to style vectors, conditioned on swapped cameras, some mixed of two latents.

    A mixed head takes its rows from a random one on from a second latent (StyleGAN, section 3.1).
    """
    condition = condition_cameras(
        latents,
        context.schedule.pose_swap_probability,
        context.random,
        swap_together=swap_together,
    )
    ws = generator.map(latents.z, condition)
    probability = context.schedule.style_mixing_probability
    if probability == 0:
        return ws
    num_heads, num_rows = ws.shape[:2]
    is_mixed, place = context.random.rand((num_heads, 2, 1)).unbind(dim=1)
    first = 1 + (place * (num_rows - 1)).long()
    second = generator.map(context.random.randn(latents.z.shape), condition)
    rows = torch.arange(num_rows, device=ws.device)
    return torch.where(((is_mixed < probability) & (rows >= first))[..., None], second, ws)


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
            ws, noise_mode=_backbone_noise(generator, len(ws), context), exact=exact
        )
    planes = (texture_planes.float(), shape_planes.float())
    if shape_planes is texture_planes:
        planes = (planes[0], planes[0])
    return generator.make_field(ws, planes)


def _backbone_noise(generator: Generator, num_heads: int, context: StepContext) -> Noise:
    """Return noise that depends on each sample only; networks would draw it for the batch."""
    if context.noise_mode != "random":
        return context.noise_mode
    sides = generator.backbone.noise_sides()
    return tuple(context.random.randn((num_heads, 1, side, side)) for side in sides)


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
