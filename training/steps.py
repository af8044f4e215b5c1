"""The training steps: each computes a loss, accumulates its gradients, and returns metrics.

The caller zeroes gradients, updates weights and enables gradients for the network that the step
trains (`training.optimization.adam`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mate3d.generator import Generator, RenderOutput
from mate3d.network.density_decoder import DensityDecoder
from mate3d.network.discriminator import Discriminator
from mate3d.network.sdf_decoder import SDFDecoder
from mate3d.rendering.field import eikonal_loss, sdf_and_gradient, sdf_consistency_loss
from mate3d.rendering.renderer import RaySamples, march_classes
from mate3d.rendering.triplane import TriPlaneField, without_classes
from torch_utils.batch_random import BatchRandom
from torch_utils.ops.resample import blur_image
from training.losses import formulas
from training.losses.terms import LossSettings, LossSum, Metrics, score_metrics
from training.optimization.compilation import not_compiled
from training.step_inputs import Latents, Networks, RealBatch, StepContext
from training.synthesis import (
    generate_fakes,
    make_field,
    make_styles,
    render_heads,
    sample_heads,
)
from training.views import Views, discriminate, real_views


def generator_step(
    networks: Networks,
    latents: Latents,
    loss: LossSettings,
    context: StepContext,
    *,
    judge: Callable[[LossSum, RenderOutput], None] | None = None,
) -> Metrics:
    """Train the generator against both discriminators and the geometry terms (spec 8.3).

    Args:
        judge: Adds other terms in place of the discriminators'.
    """
    generator = networks.generator
    ws = make_styles(generator, latents, context)
    field = make_field(generator, ws, context)
    output = render_heads(
        generator,
        field if loss.needs_classes_everywhere else without_classes(field),
        ws,
        latents,
        loss,
        context,
        with_samples=loss.needs_samples,
        with_sdf_gradient=loss.eikonal > 0 and loss.eikonal_points is None,
    )
    terms = LossSum()
    if judge is None:
        _add_adversarial_terms(terms, networks, output, latents.camera, loss, context)
    else:
        judge(terms, output)
    _add_geometry_terms(terms, field, output, loss, context)
    _add_class_render_terms(terms, generator, field, output, loss)
    context.backward(terms.total)
    return terms.metrics | _beta_metrics(generator)


def density_step(
    networks: Networks,
    latents: Latents,
    loss: LossSettings,
    context: StepContext,
    *,
    points: Tensor | None = None,  # [B, 2 N, 3]
) -> Metrics:
    """Train the generator towards smooth density (spec 8.4).

    Args:
        context: Pose swaps are decided once for the whole batch.
        points: N points, then N neighbours; None samples them with `sample_density_points`.
    """
    generator = networks.generator
    if points is None:
        points = sample_density_points(generator.config.box_size, loss, context.random)
    ws = make_styles(generator, latents, context, swap_together=True)
    with not_compiled():
        field = make_field(generator, ws, context)
    density = field.density(field.sdf(points))
    terms = LossSum()
    terms.add(
        "G_density_smoothness",
        loss.density_smoothness,
        lambda: formulas.density_smoothness_loss(*density.chunk(2, dim=1)),
        scale=_softness(generator.decoder),
    )
    context.backward(terms.total)
    return terms.metrics


def sphere_initialization_step(
    networks: Networks, latents: Latents, loss: LossSettings, context: StepContext
) -> Metrics:
    """Train the generator to make the whole and every local SDF a sphere (spec 8.6)."""
    generator = networks.generator
    ws = make_styles(generator, latents, context)
    with not_compiled():
        field = make_field(generator, ws, context)
    samples = sample_heads(generator, field, latents, context)
    num_local_sdfs = samples.class_sdf.shape[-1] if generator.config.with_local_sdfs else 0
    value = formulas.sphere_initialization_loss(
        samples.sdf.flatten(1, 2),
        samples.class_sdf[..., :num_local_sdfs].flatten(1, 2),
        samples.points.flatten(1, 2),
        radius=loss.sphere_radius,
    )
    context.backward(value)
    return {"Loss/G_init/initloss": value.detach(), **_beta_metrics(generator)}


def discriminator_step(
    networks: Networks, latents: Latents, real: RealBatch, loss: LossSettings, context: StepContext
) -> Metrics:
    """Train the image discriminator to distinguish generated from real images (spec 8.5)."""
    output = generate_fakes(networks.generator, latents, context, with_segmentation=False)
    fakes, reals = Views(output.image, output.image_raw), real_views(real, context)
    cameras = latents.camera, real.camera
    return _tell_apart(networks.discriminator, fakes, reals, cameras, context, suffix="")


def r1_step(
    networks: Networks, real: RealBatch, loss: LossSettings, context: StepContext
) -> Metrics:
    """Penalise the image discriminator's gradient at real images (spec 8.5)."""
    views = real_views(real, context)
    penalty, weighted = _r1(networks.discriminator, views, real, loss.r1_gamma, context)
    return {"Loss/r1_penalty": penalty, "Loss/D/reg": weighted}


def semantic_discriminator_step(
    networks: Networks, latents: Latents, real: RealBatch, loss: LossSettings, context: StepContext
) -> Metrics:
    """Train the image-and-mask discriminator to distinguish generated from real (spec 8.5)."""
    output = generate_fakes(networks.generator, latents, context, with_segmentation=True)
    fakes = Views(output.image, output.image_raw, output.segmentation, output.segmentation_raw)
    reals, cameras = real_views(real, context, with_mask=True), (latents.camera, real.camera)
    discriminator = networks.semantic_discriminator
    return _tell_apart(discriminator, fakes, reals, cameras, context, suffix="_semantic")


def _tell_apart(
    discriminator: Discriminator,
    fakes: Views,
    reals: Views,
    cameras: tuple[Tensor, Tensor],  # [B, 25], [B, 25]
    context: StepContext,
    *,
    suffix: str,
) -> Metrics:
    fake_logits = discriminate(discriminator, fakes, cameras[0], context)
    real_logits = discriminate(discriminator, reals, cameras[1], context)
    value = formulas.discriminator_logistic_loss(fake_logits, real_logits)
    context.backward(value.mean())
    return {
        f"Loss/D/loss{suffix}": value.detach(),
        **score_metrics(f"fake{suffix}", fake_logits),
        **score_metrics(f"real{suffix}", real_logits),
    }


def semantic_r1_step(
    networks: Networks, real: RealBatch, loss: LossSettings, context: StepContext
) -> Metrics:
    """Penalise the image-and-mask discriminator's gradient at real images and masks (spec 8.5)."""
    views, gamma = real_views(real, context, with_mask=True), loss.semantic_r1_gamma
    penalty, weighted = _r1(networks.semantic_discriminator, views, real, gamma, context)
    return {"Loss/r1_penalty_semantic": penalty, "Loss/D/reg_semantic": weighted}


def _r1(
    discriminator: Discriminator, views: Views, real: RealBatch, gamma: float, context: StepContext
) -> tuple[Tensor, Tensor]:  # [B], [B], plain and weighted
    views = views.differentiable()
    logits = discriminate(discriminator, views, real.camera, context, differentiable_twice=True)
    penalty = formulas.r1_penalty(logits, views.tensors())
    weighted = gamma / 2 * penalty
    context.backward(weighted.mean())
    return penalty.detach(), weighted.detach()


def sample_density_points(
    box_size: float,
    loss: LossSettings,
    random: BatchRandom,
) -> Tensor:  # [B, 2 N, 3], world
    """Sample points uniformly in a cube, followed by their displaced neighbours."""
    extent = box_size / 2 if loss.density_extent is None else loss.density_extent
    shape = (len(random), loss.density_points, 3)
    points = random.rand(shape) * 2 * extent - extent
    displacement = random.randn(shape)
    return torch.cat([points, points + displacement * loss.density_distance], dim=1)


def _add_adversarial_terms(
    terms: LossSum,
    networks: Networks,
    output: RenderOutput,
    camera: Tensor,  # [B, 25]
    loss: LossSettings,
    context: StepContext,
) -> None:
    per_sample = 0.0
    if loss.adversarial > 0:
        views = Views(output.image, output.image_raw)
        logits = discriminate(networks.discriminator, views, camera, context)
        per_sample = loss.adversarial * formulas.generator_logistic_loss(logits)
        terms.metrics.update(score_metrics("fake", logits))
    if loss.has_semantic_discriminator:
        logits = _semantic_logits(networks, output, camera, loss, context)
        value = formulas.generator_logistic_loss(logits)
        per_sample = per_sample + loss.semantic_adversarial * value
        terms.metrics.update(score_metrics("fake_semantic", logits))
    if isinstance(per_sample, Tensor):
        terms.total = terms.total + per_sample.mean()
        terms.metrics["Loss/G/loss"] = per_sample.detach()


def _semantic_logits(
    networks: Networks,
    output: RenderOutput,
    camera: Tensor,  # [B, 25]
    loss: LossSettings,
    context: StepContext,
) -> Tensor:  # [B, 1]
    image, image_raw = output.image, output.image_raw
    if loss.with_double_blur:
        image = blur_image(image, context.schedule.blur_sigma)
    if loss.with_detached_semantic_image:
        image, image_raw = image.detach(), image_raw.detach()
    views = Views(image, image_raw, output.segmentation, output.segmentation_raw)
    return discriminate(networks.semantic_discriminator, views, camera, context)


def _beta_metrics(generator: Generator) -> Metrics:
    """Return beta of SDF -> density; a density decoder has none."""
    if generator.config.geometry == "density":
        return {}
    return {"Loss/beta": generator.decoder.beta.detach()}


def _softness(decoder: SDFDecoder | DensityDecoder) -> Tensor | float:
    """Return beta as a multiple of the release's 0.1, for which weights on densities are tuned.

    Densities reach 1 / beta, so weights times this (per factor of density) fit every beta.
    """
    return decoder.beta.detach()[0] / 0.1 if isinstance(decoder, SDFDecoder) else 1.0


def _add_geometry_terms(
    terms: LossSum,
    field: TriPlaneField,
    output: RenderOutput,
    loss: LossSettings,
    context: StepContext,
) -> None:
    if not loss.needs_samples:
        return
    samples = output.samples
    with_detached_whole = loss.with_detached_whole
    terms.add("G_eikonal", loss.eikonal, lambda: _eikonal_term(field, samples, loss, context))
    terms.add(
        "G_g_minimal_surface",
        loss.minimal_surface,
        lambda: formulas.minimal_surface_loss(
            samples.sdf, sharpness=loss.minimal_surface_sharpness
        ),
    )
    if not loss.has_consistency:
        return
    sdf, class_sdf = _consistency_distances(field, samples, loss, context)
    terms.add(
        "G_sdf_consist_loss",
        loss.sdf_consistency,
        lambda: sdf_consistency_loss(sdf, class_sdf, with_detached_whole=with_detached_whole),
    )
    terms.add(
        "G_sigma_consist_loss",
        loss.density_consistency,
        lambda: formulas.density_consistency_loss(
            field.density(sdf), field.density(class_sdf), with_detached_whole=with_detached_whole
        ),
        scale=_softness(field.decoder) ** 2,
    )


def _eikonal_term(
    field: TriPlaneField,
    samples: RaySamples,
    loss: LossSettings,
    context: StepContext,
) -> Tensor:  # scalar
    if loss.eikonal_points is None:
        return eikonal_loss(samples.sdf_gradient)
    points = samples.points.flatten(1, 2)
    chosen = _choose(points, loss.eikonal_points, context)
    _, gradient = sdf_and_gradient(field, points[:, chosen])
    return eikonal_loss(gradient)


def _consistency_distances(
    field: TriPlaneField,
    samples: RaySamples,
    loss: LossSettings,
    context: StepContext,
) -> tuple[Tensor, Tensor]:  # sdf [B, N, 1], class_sdf [B, N, K]
    """Return distances at all or some samples, evaluating classes only if not yet known."""
    points, sdf = samples.points.flatten(1, 2), samples.sdf.flatten(1, 2)
    class_sdf = samples.class_sdf.flatten(1, 2)
    if loss.consistency_points is not None:
        chosen = _choose(points, loss.consistency_points, context)
        points, sdf, class_sdf = points[:, chosen], sdf[:, chosen], class_sdf[:, chosen]
    if not loss.needs_classes_everywhere:
        class_sdf = field.decoder.class_distances(field.shape_features(points))
    return sdf, class_sdf


def _choose(
    points: Tensor,  # [B, N, 3]
    number: int,
    context: StepContext,
) -> Tensor:  # [number], or all N if those are fewer
    """Sample indices uniformly: their mean is an unbiased estimate of the mean over all."""
    if number >= points.shape[1]:
        return torch.arange(points.shape[1], device=points.device)
    shared = context.random.shared
    return torch.randint(points.shape[1], (number,), generator=shared, device=points.device)


def _add_class_render_terms(
    terms: LossSum,
    generator: Generator,
    field: TriPlaneField,
    output: RenderOutput,
    loss: LossSettings,
) -> None:
    if not loss.has_class_renders:
        return
    samples = output.samples
    class_density = field.density(samples.class_sdf)
    class_images, _ = march_classes(samples, class_density, generator.config.rendering)
    terms.add(
        "G_rgb_semantic_seg_loss_raw",
        loss.class_color_consistency,
        lambda: formulas.class_color_consistency_loss(
            class_images, output.image_raw, output.segmentation_raw
        ),
    )
    terms.add(
        "G_rgb_consist_loss",
        loss.color_consistency,
        lambda: formulas.color_consistency_loss(
            class_images, output.image_raw, with_detached_whole=loss.with_detached_whole
        ),
    )
