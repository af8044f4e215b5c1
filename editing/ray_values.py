"""What is known at the samples of rays, and what they composite to."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mate3d.rendering.rays import DepthDraws, importance_depths, stratified_depths
from mate3d.rendering.renderer import (
    FieldRender,
    RaySamples,
    RenderingConfig,
    composite_features,
    composite_normals,
    composite_segmentation,
    to_image,
)
from mate3d.rendering.volume_rendering import expected_depth, interval_weights

# Samples of less weight add less to values of order one than float32 resolves.
LEAST_WEIGHT = 1e-8


@dataclass(frozen=True)
class Rays:
    """Rays of one view.

    Args:
        origins: World positions, [1, R, 3].
        directions: Unit vectors, [1, R, 3].
    """

    origins: Tensor
    directions: Tensor

    def points(
        self,
        depths: Tensor,  # [1, R, S, 1]
    ) -> Tensor:  # [1, R, S, 3]
        """Return world positions at distances along the rays."""
        return self.origins.unsqueeze(2) + depths * self.directions.unsqueeze(2)

    def take(
        self,
        index: Tensor,  # [M]
    ) -> "Rays":
        """Return some of the rays."""
        return Rays(self.origins[:, index], self.directions[:, index])


@dataclass(frozen=True)
class KnownSamples:
    """Samples of rays and some numbers that are known there.

    Args:
        depths: Ascending distances along the rays, [1, R, S, 1].
        points: World positions, [1, R, S, 3].
        values: The numbers, [1, R, S, V].
    """

    depths: Tensor
    points: Tensor
    values: Tensor

    def take(
        self,
        index: Tensor,  # [M]
    ) -> "KnownSamples":
        """Return what is known along some of the rays."""
        parts = (self.depths, self.points, self.values)
        return KnownSamples(*(part[:, index] for part in parts))

    def merge(self, other: "KnownSamples") -> "KnownSamples":
        """Return the samples of both in order of depth."""
        depths, order = torch.cat([self.depths, other.depths], dim=2).sort(dim=2)

        def merged(mine: Tensor, others: Tensor) -> Tensor:
            both = torch.cat([mine, others], dim=2)
            return both.gather(2, order.expand(-1, -1, -1, both.shape[-1]))

        return KnownSamples(
            depths, merged(self.points, other.points), merged(self.values, other.values)
        )


@dataclass(frozen=True)
class RayValues:
    """Composited values of rays.

    Args:
        features: [1, R, C] in about -1..1.
        segmentation: [1, R, K] in -1..1.
        depth: [1, R, 1], world units.
        opacity: [1, R, 1] in 0..1.
        normals: [1, R, 3], length at most 1, or None.
    """

    features: Tensor
    segmentation: Tensor
    depth: Tensor
    opacity: Tensor
    normals: Tensor | None

    def with_rays(
        self,
        index: Tensor,  # [M]
        others: "RayValues",  # of M rays
    ) -> "RayValues":
        """Return a copy that has other values at some rays."""
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return RayValues(
            *(None if new is None else mine.index_copy(1, index, new) for mine, new in pairs)
        )

    def as_images(self) -> FieldRender:
        """Arrange the rays of a square image, listed row by row, as images."""
        images = {name: None if v is None else to_image(v) for name, v in vars(self).items()}
        return FieldRender(
            feature_image=images["features"],
            segmentation_raw=images["segmentation"],
            depth=images["depth"],
            opacity=images["opacity"],
            normals=images["normals"],
            samples=None,
        )


def coarse_depths(
    rays: Rays,
    config: RenderingConfig,
) -> Tensor:  # [1, R, S, 1]
    """Return the depths that a render without random draws begins with."""
    shape = (*rays.origins.shape[:2], config.num_coarse_samples, 1)
    uniforms = DepthDraws().stratified_uniforms(shape, rays.origins)
    return stratified_depths(uniforms, config.near, config.far)


def fine_depths(
    coarse: Tensor,  # [1, R, S, 1]
    density: Tensor,  # [1, R, S, 1]
    config: RenderingConfig,
) -> Tensor:  # [1, R, F, 1]
    """Return the depths that a render without random draws adds where there is weight."""
    if config.num_fine_samples == 0:
        return coarse[:, :, :0]
    weights = interval_weights(density, coarse, config.density_activation)
    num_rays = coarse.shape[1]
    uniforms = DepthDraws().importance_uniforms(num_rays, config.num_fine_samples, coarse)
    return importance_depths(coarse, weights, uniforms, config.importance_bins)


def visible_samples(
    weights: Tensor,  # [1, R, S - 1, 1]
) -> Tensor:  # [1, R, S] bool
    """Return the samples at an end of an interval that has weight."""
    padded = F.pad(weights.detach().squeeze(-1), (1, 1))
    return torch.maximum(padded[..., 1:], padded[..., :-1]) > LEAST_WEIGHT


def composite_rays(
    samples: RaySamples,
    config: RenderingConfig,
    background: Tensor | None,  # [1, C]
) -> RayValues:
    """March all that samples know; the segmentation's gradient reaches the density."""
    return RayValues(
        features=composite_features(samples.features, samples.weights, config, background),
        segmentation=composite_segmentation(samples, config, detach_density=False),
        depth=expected_depth(samples.depths, samples.weights),
        opacity=samples.weights.sum(dim=2),
        normals=None if samples.sdf_gradient is None else composite_normals(samples),
    )
