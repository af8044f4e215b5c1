"""A field seen from one camera, without gradients and without evaluating what does not show.

The results are those of `mate3d.rendering.renderer.render_field` but for samples whose compositing
weight is negligible: their colours and class distances are not evaluated. Distances of coarse
samples are evaluated once instead of twice, the rays are rendered a tile at a time, and nothing is
reordered but one number a sample.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mate3d.rendering.field import Field
from mate3d.rendering.field_probe import FieldProbe, gradient_at_chosen, open_probe
from mate3d.rendering.rays import DepthDraws, importance_depths, stratified_depths
from mate3d.rendering.renderer import (
    FieldRender,
    RenderingConfig,
    class_scores,
    fill_colors,
    fill_scores,
    march_normals,
    to_image,
)
from mate3d.rendering.volume_rendering import expected_depth, interval_weights, sample_weights

# Intervals with less weight count as nothing: a ray of 96 samples loses a hundredth of its light at
# the very most. Trained and random generators keep 68 to 102 dB PSNR to the exact image;
# ten times as much would be 50 dB.
NEGLIGIBLE_WEIGHT = 1e-4
# Rays evaluated together on a CPU: their features stay below the 32 MiB from which on every tensor
# is fresh memory.
_TILE_RAYS = 1024


@dataclass
class _Tile:
    """What is known of some rays: composited values, and depths with weights, sorted."""

    colors: Tensor  # [B, T, C]
    scores: Tensor  # [B, T, K]
    depths: Tensor  # [B, T, S, 1]
    weights: Tensor  # [B, T, S - 1, 1]
    normals: Tensor | None  # [B, T, 3]


@dataclass(frozen=True)
class _Wanted:
    """What is evaluated, and where."""

    negligible_weight: float
    with_normals: bool
    with_segmentation: bool


@torch.no_grad()
def render_field_fast(
    field: Field,
    ray_origins: Tensor,  # [B, R, 3], R = h * w
    ray_directions: Tensor,  # [B, R, 3]
    config: RenderingConfig,
    *,
    draws: DepthDraws | None = None,
    depths: Tensor | None = None,  # [B, R, S, 1]
    with_normals: bool = False,
    with_segmentation: bool = True,
    negligible_weight: float = NEGLIGIBLE_WEIGHT,
) -> FieldRender:
    """Render any field without recording gradients; see `render_field`.

    Args:
        field: What to render.
        ray_origins: World positions, rays of a square image row by row.
        ray_directions: Unit vectors.
        config: Ranges, sample counts and conventions.
        draws: Uniform numbers of depth sampling; None is fixed.
        depths: Sample here instead of where the field has weight.
        with_normals: Also composite SDF normals.
        with_segmentation: Also composite class scores, where there are classes.
        negligible_weight: Colours and class distances are evaluated at the ends of intervals with
            more compositing weight than this; 0 evaluates wherever there is any weight.
    """
    probe = open_probe(field)
    wanted = _Wanted(negligible_weight, with_normals, with_segmentation)
    given = None if depths is None else (depths,)
    uniforms = None if given else _draw(ray_origins, config, draws or DepthDraws())
    num_batch, num_rays, _ = ray_origins.shape
    step = max(_TILE_RAYS // num_batch, 1) if ray_origins.device.type == "cpu" else num_rays
    tiles = []
    for first in range(0, num_rays, step):
        part = slice(first, first + step)
        rays = _Rays(ray_origins[:, part], ray_directions[:, part], config)
        if given:
            parts = [rays.probe(probe, depths[:, part])]
        else:
            parts = rays.probe_where_weight_is(probe, *(values[:, part] for values in uniforms))
        tiles.append(rays.march(probe, parts, wanted))
    return _join(tiles, config, field.background)


def _draw(
    ray_origins: Tensor, config: RenderingConfig, draws: DepthDraws
) -> tuple[Tensor, Tensor]:  # [B, R, S, 1], [B, R, F]
    """Draw the uniform numbers of all rays at once, in the order of `sample_depths`."""
    num_batch, num_rays, _ = ray_origins.shape
    num_coarse, num_fine = config.num_coarse_samples, config.num_fine_samples
    stratified = draws.stratified_uniforms((num_batch, num_rays, num_coarse, 1), ray_origins)
    if num_fine == 0:
        return stratified, ray_origins.new_empty(num_batch, num_rays, 0)
    importance = draws.importance_uniforms(num_batch * num_rays, num_fine, ray_origins)
    return stratified, importance.reshape(num_batch, num_rays, num_fine)


@dataclass
class _Probed:
    """Samples whose distance is known, and what evaluating the rest needs."""

    depths: Tensor  # [B, T, S, 1]
    points: Tensor  # [B, T * S, 3]
    sdf: Tensor  # [B, T, S, 1]
    state: object


@dataclass(frozen=True)
class _Rays:
    """Some of the rays."""

    origins: Tensor  # [B, T, 3]
    directions: Tensor  # [B, T, 3]
    config: RenderingConfig

    def probe(self, probe: FieldProbe, depths: Tensor) -> _Probed:
        points = self.origins.unsqueeze(2) + depths * self.directions.unsqueeze(2)
        points = points.flatten(1, 2)
        sdf, state = probe.begin(points)
        return _Probed(depths, points, sdf.view(depths.shape), state)

    def probe_where_weight_is(
        self, probe: FieldProbe, stratified: Tensor, importance: Tensor
    ) -> list[_Probed]:
        config = self.config
        coarse = self.probe(probe, stratified_depths(stratified, config.near, config.far))
        if config.num_fine_samples == 0:
            return [coarse]
        density = probe.field.density(coarse.sdf)
        weights = interval_weights(density, coarse.depths, config.density_activation)
        fine = importance_depths(
            coarse.depths, weights, importance.flatten(0, 1), config.importance_bins
        )
        return [coarse, self.probe(probe, fine)]

    def march(
        self,
        probe: FieldProbe,
        parts: list[_Probed],
        wanted: _Wanted,
    ) -> _Tile:
        depths, order = torch.cat([part.depths for part in parts], dim=2).sort(dim=2)
        sdf = torch.cat([part.sdf for part in parts], dim=2).gather(2, order)
        density = probe.field.density(sdf)
        weights = interval_weights(density, depths, self.config.density_activation)
        # Sums over samples need no order: each part composites its own.
        share = torch.empty_like(depths).scatter_(2, order, sample_weights(weights))
        edge = F.pad(weights, (0, 0, 1, 1))
        largest = torch.maximum(edge[:, :, 1:], edge[:, :, :-1])
        counts = torch.empty_like(depths, dtype=torch.bool)
        counts.scatter_(2, order, largest > wanted.negligible_weight)
        sizes = [part.depths.shape[2] for part in parts]
        colors = scores = 0
        gradients = []
        for part, part_share, part_counts in zip(
            parts, share.split(sizes, dim=2), counts.split(sizes, dim=2), strict=True
        ):
            chosen = part_counts.flatten().nonzero().squeeze(1)
            features, class_sdf = probe.finish(
                part.state, part.points, chosen, with_classes=wanted.with_segmentation
            )
            per_sample = part_share.flatten()[chosen]
            bags = part_counts.flatten(0, 1).sum(dim=(1, 2))
            colors = colors + self._sum(features, per_sample, bags)
            class_values = class_scores(class_sdf, self.config)
            scores = scores + self._sum(class_values, per_sample, bags)
            if wanted.with_normals:
                gradient = gradient_at_chosen(probe.field, part.points, chosen)
                gradients.append(gradient.view(*part.depths.shape[:3], 3))
        normals = None
        if wanted.with_normals:
            gradient = torch.cat(gradients, dim=2).gather(2, order.expand(-1, -1, -1, 3))
            normals = march_normals(gradient, weights)
        return _Tile(colors, scores, depths, weights, normals)

    def _sum(
        self,
        values: Tensor,  # [M, C] of the rays' chosen samples, ray by ray
        weights: Tensor,  # [M]
        bags: Tensor,  # [B * T], how many samples each ray has
    ) -> Tensor:  # [B, T, C]
        if values.shape[1] == 0:  # With several threads embedding_bag fails on empty rows.
            return values.new_zeros(*self.origins.shape[:2], 0)
        offsets = (bags.cumsum(0) - bags).int()
        index = torch.arange(len(values), device=values.device, dtype=torch.int32)
        summed = F.embedding_bag(
            index, values, offsets, mode="sum", per_sample_weights=weights.to(values.dtype)
        )
        return summed.unflatten(0, self.origins.shape[:2])


def _join(tiles: list[_Tile], config: RenderingConfig, background: Tensor | None) -> FieldRender:
    def join(name: str) -> Tensor:
        return torch.cat([getattr(tile, name) for tile in tiles], dim=1)

    depths, weights = join("depths"), join("weights")
    opacity = weights.sum(dim=2)
    scores = join("scores")
    segmentation = None
    if scores.shape[-1] > 0:
        segmentation = to_image(fill_scores(scores, opacity, config))
    return FieldRender(
        feature_image=to_image(fill_colors(join("colors"), opacity, config, background)),
        segmentation_raw=segmentation,
        depth=to_image(expected_depth(depths, weights)),
        opacity=to_image(opacity),
        normals=None if tiles[0].normals is None else to_image(join("normals")),
        samples=None,
    )
