"""Exact volume rendering of any field: coarse and fine depths, evaluation, compositing."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mate3d.options import NonNegativeInt, Options, PositiveFloat, PositiveInt
from mate3d.rendering.field import Field, field_gradient, sample_with_gradient
from mate3d.rendering.rays import (
    DensityActivation,
    DepthDraws,
    ImportanceBins,
    class_scores,
    composite,
    expected_depth,
    fill_colors,
    fill_scores,
    importance_depths,
    interval_weights,
    march_normals,
    stratified_depths,
    to_image,
)


@dataclass(frozen=True)
class RenderingConfig(Options):
    """How fields are rendered; stored with every checkpoint.

    Args:
        near: Distance of the first sample along a ray, in world units.
        far: Distance of the last sample along a ray, in world units.
        num_coarse_samples: Stratified samples per ray.
        num_fine_samples: Importance samples per ray.
        density_activation: Activation that turns field values into densities: identity is
            physically correct; published weights need softplus_shifted.
        importance_bins: Placement of importance samples: intervals is correct; published weights
            need legacy_midpoints.
        semantic_sharpness: Sharpness of class scores: sigmoid(-semantic_sharpness * d_k) for class
            k at a point.
        white_background: Render empty space as white.
        background_class: Class of empty space; null for published weights, which have none.
    """

    near: PositiveFloat = 2.25
    far: PositiveFloat = 3.3
    num_coarse_samples: PositiveInt = 48
    num_fine_samples: NonNegativeInt = 48
    density_activation: DensityActivation = "identity"
    importance_bins: ImportanceBins = "intervals"
    semantic_sharpness: PositiveFloat = 20.0
    white_background: bool = False
    background_class: NonNegativeInt | None = 0


def least_beta(config: RenderingConfig) -> float:
    """Return the softness that samples just resolve, in world units.

    Density rises from 12 to 88 % within 4 beta. A surface gets no gradient without a sample in
    this layer, so it should not be thinner than the distance between samples at a thin surface.
    There, one coarse interval has all the weight. `smooth_weights` gives it a mass of 1, half of
    that to each neighbour and 0.01 to every interval; its fine samples divide it.
    """
    num_intervals = config.num_coarse_samples - 1
    num_fine = config.num_fine_samples * 1.01 / (2 + 0.01 * num_intervals)
    return (config.far - config.near) / num_intervals / (1 + num_fine) / 4


@dataclass
class RaySamples:
    """Values at the merged coarse and fine samples of each ray.

    Args:
        depths: Ascending distances, [B, R, S, 1].
        points: World positions, [B, R, S, 3].
        features: Colour features, [B, R, S, C].
        sdf: Global distance, [B, R, S, 1].
        class_sdf: Class distances, [B, R, S, K].
        density: Global density, [B, R, S, 1]; raw and of any sign if the geometry is a density.
        weights: Compositing weight of each interval, [B, R, S - 1, 1].
        sdf_gradient: Gradient of `sdf` at `points`, [B, R, S, 3], if requested.
    """

    depths: Tensor
    points: Tensor
    features: Tensor
    sdf: Tensor
    class_sdf: Tensor
    density: Tensor
    weights: Tensor
    sdf_gradient: Tensor | None


@dataclass
class FieldRender:
    """Square images of a field, rendered with h * w = R rays.

    Args:
        feature_image: Composited colour features, [B, C, h, w] in about -1..1.
        segmentation_raw: Composited class scores, [B, K, h, w] in -1..1; None without classes.
        depth: Expected distance along the ray, [B, 1, h, w].
        opacity: Sum of weights, [B, 1, h, w] in 0..1.
        normals: Composited unit normals in world axes, [B, 3, h, w], or None.
        samples: Per-sample values, or None.
    """

    feature_image: Tensor
    segmentation_raw: Tensor | None
    depth: Tensor
    opacity: Tensor
    normals: Tensor | None
    samples: RaySamples | None


@torch.no_grad()
def sample_depths(
    field: Field,
    ray_origins: Tensor,  # [B, R, 3]
    ray_directions: Tensor,  # [B, R, 3]
    config: RenderingConfig,
    draws: DepthDraws,
) -> Tensor:  # [B, R, S, 1], ascending
    """Return merged coarse and importance depths; evaluates only the global distance."""
    num_batch, num_rays, _ = ray_origins.shape
    shape = (num_batch, num_rays, config.num_coarse_samples, 1)
    coarse = stratified_depths(
        draws.stratified_uniforms(shape, ray_origins), config.near, config.far
    )
    if config.num_fine_samples == 0:
        return coarse
    points = ray_origins.unsqueeze(2) + coarse * ray_directions.unsqueeze(2)
    density = field.density(field.sdf(points.flatten(1, 2))).view(shape)
    weights = interval_weights(density, coarse, config.density_activation)
    uniforms = draws.importance_uniforms(num_batch * num_rays, config.num_fine_samples, ray_origins)
    fine = importance_depths(coarse, weights, uniforms, config.importance_bins)
    return torch.cat([coarse, fine], dim=2).sort(dim=2).values


def evaluate_rays(
    field: Field,
    ray_origins: Tensor,  # [B, R, 3]
    ray_directions: Tensor,  # [B, R, 3]
    depths: Tensor,  # [B, R, S, 1]
    config: RenderingConfig,
    *,
    with_sdf_gradient: bool = False,
) -> RaySamples:
    """Evaluate a field at given depths and compute interval weights."""
    points = ray_origins.unsqueeze(2) + depths * ray_directions.unsqueeze(2)
    flat = points.flatten(1, 2)
    gradient = None
    if with_sdf_gradient and torch.is_grad_enabled():
        values, gradient = sample_with_gradient(field, flat)
    else:
        values = field.sample(flat)
        if with_sdf_gradient:
            gradient = field_gradient(field, flat)
    samples_shape = depths.shape[:3]
    sdf = values.sdf.unflatten(1, samples_shape[1:])
    density = field.density(sdf)
    return RaySamples(
        depths=depths,
        points=points,
        features=values.features.unflatten(1, samples_shape[1:]),
        sdf=sdf,
        class_sdf=values.class_sdf.unflatten(1, samples_shape[1:]),
        density=density,
        weights=interval_weights(density, depths, config.density_activation),
        sdf_gradient=None if gradient is None else gradient.unflatten(1, samples_shape[1:]),
    )


def composite_features(
    features: Tensor,  # [B, R, S, C]
    weights: Tensor,  # [B, R, S - 1, 1]
    config: RenderingConfig,
    background: Tensor | None = None,  # [B, C]
) -> Tensor:  # [B, R, C] in about -1..1
    """Composite colour features in front of a background."""
    colors, opacity = composite(features, weights), weights.sum(dim=2)
    return fill_colors(colors, opacity, background, is_white=config.white_background)


def march_classes(
    samples: RaySamples,
    class_density: Tensor,  # [B, R, S, K]
    config: RenderingConfig,
) -> tuple[Tensor, Tensor]:  # images [B, K, 3, h, w], depths [B, K, 1, h, w]
    """Composite colours with each class's own density (spec 6.5), for previews and one loss."""
    images, depths = [], []
    for density in class_density.split(1, dim=-1):
        weights = interval_weights(density, samples.depths, config.density_activation)
        colors = composite_features(samples.features[..., :3], weights, config)
        images.append(to_image(colors))
        depths.append(to_image(expected_depth(samples.depths, weights)))
    return torch.stack(images, dim=1), torch.stack(depths, dim=1)


def render_field(
    field: Field,
    ray_origins: Tensor,  # [B, R, 3], R = h * w
    ray_directions: Tensor,  # [B, R, 3]
    config: RenderingConfig,
    *,
    draws: DepthDraws | None = None,
    depths: Tensor | None = None,  # [B, R, S, 1]
    with_normals: bool = False,
    with_samples: bool = False,
    with_segmentation: bool = True,
    detach_semantic_density: bool = True,
) -> FieldRender:
    """Render any field.

    Args:
        ray_origins: World positions; rays of a square image in row-major order.
        ray_directions: Unit vectors.
        draws: Uniform numbers for depth sampling; None uses fixed ones.
        depths: Sample depths, instead of coarse and importance sampling.
        with_normals: Also composite SDF normals.
        with_samples: Also return per-sample values, with the SDF gradient if `with_normals`.
        with_segmentation: Also composite class scores, if there are classes.
        detach_semantic_density: Let the segmentation train only class distances, as in the
            released code.
    """
    if depths is None:
        depths = sample_depths(field, ray_origins, ray_directions, config, draws or DepthDraws())
    samples = evaluate_rays(
        field, ray_origins, ray_directions, depths, config, with_sdf_gradient=with_normals
    )
    features = composite_features(samples.features, samples.weights, config, field.background)
    segmentation = None
    if with_segmentation and samples.class_sdf.shape[-1] > 0:
        weights = samples.weights.detach() if detach_semantic_density else samples.weights
        # Scores are composited with the global density (spec 6.5).
        scores = composite(class_scores(samples.class_sdf, config.semantic_sharpness), weights)
        segmentation = to_image(fill_scores(scores, weights.sum(dim=2), config.background_class))
    normals = None
    if with_normals:
        normals = to_image(march_normals(samples.sdf_gradient, samples.weights))
    return FieldRender(
        feature_image=to_image(features),
        segmentation_raw=segmentation,
        depth=to_image(expected_depth(depths, samples.weights)),
        opacity=to_image(samples.weights.sum(dim=2)),
        normals=normals,
        samples=samples if with_samples else None,
    )
