"""The generator in the training steps: latents -> style vectors, fields and renders."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from mate3d.generator import Generator, RenderOutput
from mate3d.generator_config import GeneratorConfig
from mate3d.network.layers import Noise
from mate3d.network.synthesis import works_in_bands
from mate3d.rendering.fast_rendering import render_field_fast
from mate3d.rendering.rays import DepthDraws, sample_rays
from mate3d.rendering.renderer import RaySamples, evaluate_rays, render_field, sample_depths
from mate3d.rendering.triplane import TriPlaneField, without_classes
from torch_utils.batch_random import BatchRandom
from training.losses.terms import LossSettings
from training.step_inputs import Latents, StepContext

# Samples with less weight are skipped in fakes for discriminators; see `render_field_fast`.
_NEGLIGIBLE_WEIGHT = 1e-6


def condition_cameras(
    latents: Latents,
    probability: float | None,
    random: BatchRandom | None = None,
    *,
    swap_together: bool = False,
) -> Tensor:  # [B, 25]
    """Return conditioning cameras, each replaced by its neighbour's with some probability.

    Args:
        probability: Probability of a swap; None conditions on zeros.
        random: Random generators; not used if the probability is 0 or 1.
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
    """Map latents to style vectors, with pose swaps and style mixing.

    A mixed head uses a second latent from a random row on (StyleGAN, section 3.1).
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
    num_samples, num_rows = ws.shape[:2]
    is_mixed, place = context.random.rand((num_samples, 2, 1)).unbind(dim=1)
    first = 1 + (place * (num_rows - 1)).long()
    second = generator.map(context.random.randn(latents.z.shape), condition)
    rows = torch.arange(num_rows, device=ws.device)
    return torch.where(((is_mixed < probability) & (rows >= first))[..., None], second, ws)


def make_field(
    generator: Generator,
    ws: Tensor,  # [B, L, w_dim]
    context: StepContext,
    *,
    exact: bool = True,
) -> TriPlaneField:
    """Return the heads of a batch as a float32 field, whatever the backbone's precision."""
    with context.precision.backbone():
        texture_planes, shape_planes = generator.make_planes(
            ws, noise_mode=_backbone_noise(generator, len(ws), context), exact=exact
        )
    planes = (texture_planes.float(), shape_planes.float())
    if shape_planes is texture_planes:
        planes = (planes[0], planes[0])
    return generator.make_field(ws, planes)


def _backbone_noise(generator: Generator, num_samples: int, context: StepContext) -> Noise:
    """Return noise that depends only on each sample; the networks sample it per batch."""
    if context.noise_mode != "random":
        return context.noise_mode
    sides = generator.backbone.noise_sides()
    return tuple(context.random.randn((num_samples, 1, side, side)) for side in sides)


def render_heads(
    generator: Generator,
    field: TriPlaneField,
    ws: Tensor,  # [B, L, w_dim]
    latents: Latents,
    loss: LossSettings,
    context: StepContext,
    *,
    with_samples: bool = False,
    with_sdf_gradient: bool = False,
) -> RenderOutput:
    """Render heads at the scheduled resolution, with gradients detached as in the loss settings.

    Rays, samples and compositing are float32; super-resolution runs in the context's precision.

    Args:
        field: The field to render; without classes there is no segmentation. The segmentation is
            super-resolved only for the image-and-mask discriminator.
        with_samples: Also return per-sample values.
        with_sdf_gradient: Also return the SDF gradient at samples.
    """
    view = render_field(
        field,
        *sample_rays(latents.camera, context.schedule.resolution),
        generator.config.rendering,
        draws=_depth_draws(context),
        with_normals=with_sdf_gradient,
        with_samples=with_samples,
        detach_semantic_density=loss.with_detached_whole,
    )
    seen = view if loss.has_semantic_discriminator else replace(view, segmentation_raw=None)
    with context.precision.image_networks():
        output = generator.superresolve(
            seen, ws, detach_semantic_features=loss.with_detached_semantic_features
        )
    return replace(_in_single_precision(output), segmentation_raw=view.segmentation_raw)


def sample_heads(
    generator: Generator, field: TriPlaneField, latents: Latents, context: StepContext
) -> RaySamples:
    """Return per-sample values along the rays of views, without rendering images."""
    rays = sample_rays(latents.camera, context.schedule.resolution)
    config = generator.config.rendering
    depths = sample_depths(field, *rays, config, _depth_draws(context))
    return evaluate_rays(field, *rays, depths, config)


@torch.no_grad()
def generate_fakes(
    generator: Generator, latents: Latents, context: StepContext, *, with_segmentation: bool
) -> RenderOutput:
    """Render fakes for a discriminator step, and update the average of w (spec 8.2).

    No gradients are needed, so contributions at the level of rounding errors may be skipped.
    """
    ws = make_styles(generator, latents, context)
    generator.mapping.update_average(ws)
    field = make_field(generator, ws, context, exact=False)
    rays, config = sample_rays(latents.camera, context.schedule.resolution), generator.config
    options = {"draws": _depth_draws(context), "with_segmentation": with_segmentation}
    if marches_sparsely(config, context.schedule.beta or config.beta, ws.device):
        options["negligible_weight"] = _NEGLIGIBLE_WEIGHT
        view = render_field_fast(field, *rays, config.rendering, **options)
    else:
        field = field if with_segmentation else without_classes(field)
        view = render_field(field, *rays, config.rendering, **options)
    with context.precision.image_networks():
        output = generator.superresolve(view, ws, exact=False)
    return _in_single_precision(output)


def marches_sparsely(config: GeneratorConfig, beta: float, device: torch.device) -> bool:
    """Return whether fakes skip samples of negligible weight.

    On a CPU they always do. Choosing samples makes a GPU wait, and moves those chosen, so there
    they do so only if samples count in less than half of the planes' box. At distance d from a
    surface, before or behind it, the weight of a sample is density times transmittance times
    spacing, sigmoid(d / beta) sigmoid(-d / beta) spacing / beta < exp(-d / beta) spacing / beta.
    """
    rendering = config.rendering
    if works_in_bands(device):
        return True
    if config.geometry == "density" or rendering.density_activation != "identity":
        return False
    spacing = (rendering.far - rendering.near) / (rendering.num_coarse_samples - 1)
    reach = beta * math.log(max(spacing / (beta * _NEGLIGIBLE_WEIGHT), 1))
    return 2 * reach < config.box_size / 2


def _depth_draws(context: StepContext) -> DepthDraws:
    return DepthDraws(mode=context.depth_mode, generator=context.random)


def _in_single_precision(output: RenderOutput) -> RenderOutput:
    segmentation = output.segmentation
    return replace(
        output,
        image=output.image.float(),
        segmentation=None if segmentation is None else segmentation.float(),
    )
