"""Rays: stratified and importance sampling, compositing (Max 1995), and images of the results."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mate3d.cameras import unpack_camera
from mate3d.rendering.field import unit_normals
from torch_utils.batch_random import BatchRandom

ImportanceBins = Literal["intervals", "legacy_midpoints"]
DensityActivation = Literal["identity", "softplus_shifted"]


def sample_rays(
    camera: Tensor,  # [B, 25]
    resolution: int,
) -> tuple[Tensor, Tensor]:  # ray_origins [B, R, 3], ray_directions [B, R, 3]
    """Return one ray through each pixel centre of a square image, row-major (spec 2)."""
    cam2world, intrinsics = unpack_camera(camera)
    focal_x, focal_y = intrinsics[:, 0, 0, None], intrinsics[:, 1, 1, None]
    center_x, center_y = intrinsics[:, 0, 2, None], intrinsics[:, 1, 2, None]
    skew = intrinsics[:, 0, 1, None]
    steps = (torch.arange(resolution, device=camera.device, dtype=camera.dtype) + 0.5) / resolution
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    u, v = u.reshape(1, -1), v.reshape(1, -1)
    y = (v - center_y) / focal_y
    x = (u - center_x + center_y * skew / focal_y - skew * v / focal_y) / focal_x
    local = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    directions = local @ cam2world[:, :3, :3].transpose(1, 2)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    return cam2world[:, None, :3, 3].expand_as(directions), directions


@dataclass(frozen=True)
class DepthDraws:
    """Source of the uniform numbers for depth sampling.

    By default they are fixed (interval centres and evenly spaced quantiles), so that a render
    depends only on its inputs. Training uses random ones.

    Args:
        mode: "fixed" or "random".
        generator: Random generator for mode "random": one for the whole batch, or one per sample;
            None uses PyTorch's default.
        stratified: Recorded numbers in [0, 1) to use instead, [B, R, S, 1].
        importance: Recorded numbers in [0, 1] to use instead, [B * R, F].
    """

    mode: Literal["fixed", "random"] = "fixed"
    generator: torch.Generator | BatchRandom | None = None
    stratified: Tensor | None = None
    importance: Tensor | None = None

    def stratified_uniforms(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return one number in [0, 1) per coarse sample."""
        if self.stratified is not None:
            return self.stratified
        if self.mode == "fixed":
            return like.new_full(shape, 0.5)
        return self._draw(shape, like)

    def importance_uniforms(self, num_rays: int, num_samples: int, like: Tensor) -> Tensor:
        """Return `num_samples` numbers in [0, 1] per ray, [num_rays, num_samples]."""
        if self.importance is not None:
            return self.importance
        if self.mode == "fixed":
            even = torch.linspace(0, 1, num_samples, device=like.device, dtype=like.dtype)
            return even.expand(num_rays, num_samples)
        if isinstance(self.generator, BatchRandom):
            rays_each = num_rays // len(self.generator)
            shape = (len(self.generator), rays_each, num_samples)
            return self._draw(shape, like).flatten(0, 1)
        return self._draw((num_rays, num_samples), like)

    def _draw(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        if isinstance(self.generator, BatchRandom):
            return self.generator.rand(shape, like.dtype)
        return torch.rand(shape, generator=self.generator, device=like.device, dtype=like.dtype)


def stratified_depths(
    uniforms: Tensor,  # [B, R, S, 1] in [0, 1)
    near: float,
    far: float,
) -> Tensor:  # [B, R, S, 1]
    """Return t_i = near + (i + U_i) D with D = (far - near) / (S - 1) (spec 6.3)."""
    num_samples = uniforms.shape[2]
    spacing = (far - near) / (num_samples - 1)
    start = torch.linspace(near, far, num_samples, device=uniforms.device, dtype=uniforms.dtype)
    return start.view(1, 1, -1, 1) + uniforms * spacing


def smooth_weights(
    weights: Tensor,  # [M, S - 1]
    padding: float = 0.01,
) -> Tensor:  # [M, S - 1]
    """Spread interval weights to their neighbours and add a floor (mip-NeRF's max blur)."""
    edge = torch.cat([weights[:, :1], weights, weights[:, -1:]], dim=1)
    peaks = torch.maximum(edge[:, :-1], edge[:, 1:])
    return (peaks[:, :-1] + peaks[:, 1:]) / 2 + padding


def sample_piecewise(
    bin_edges: Tensor,  # [M, J + 1] ascending
    masses: Tensor,  # [M, J] non-negative
    uniforms: Tensor,  # [M, F] in [0, 1]
) -> Tensor:  # [M, F]
    """Sample a piecewise constant distribution by inverting its CDF."""
    probabilities = masses + 1e-5
    probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    cdf = torch.cat([torch.zeros_like(masses[:, :1]), probabilities.cumsum(dim=-1)], dim=-1)
    index = torch.searchsorted(cdf, uniforms.contiguous(), right=True)
    below = (index - 1).clamp(min=0)
    above = index.clamp(max=masses.shape[-1])
    cdf_below, cdf_above = cdf.gather(1, below), cdf.gather(1, above)
    step = cdf_above - cdf_below
    step = torch.where(step < 1e-5, torch.ones_like(step), step)
    edge_below, edge_above = bin_edges.gather(1, below), bin_edges.gather(1, above)
    return edge_below + (uniforms - cdf_below) / step * (edge_above - edge_below)


def importance_depths(
    depths: Tensor,  # [B, R, S, 1] ascending
    weights: Tensor,  # [B, R, S - 1, 1]
    uniforms: Tensor,  # [B * R, F] in [0, 1]
    bins: ImportanceBins = "intervals",
) -> Tensor:  # [B, R, F, 1]
    """Sample depths in proportion to the coarse pass's weights.

    Args:
        weights: Compositing weight of each coarse interval.
        uniforms: Quantiles to sample.
        bins: "intervals" assigns each interval its own weight. "legacy_midpoints" reproduces an
            error in EG3D that published weights were trained with: weights are shifted half an
            interval towards the camera, and the last half interval is never sampled (spec 6.3).
    """
    num_batch, num_rays, num_samples, _ = depths.shape
    edges = depths.reshape(-1, num_samples)
    masses = smooth_weights(weights.reshape(-1, num_samples - 1))
    if bins == "legacy_midpoints":
        edges = (edges[:, 1:] + edges[:, :-1]) / 2
        masses = masses[:, 1:-1]
    return sample_piecewise(edges, masses, uniforms).view(num_batch, num_rays, -1, 1)


def interval_weights(
    density: Tensor,  # [B, R, S, 1], per world unit
    depths: Tensor,  # [B, R, S, 1], ascending
    activation: DensityActivation = "identity",
) -> Tensor:  # [B, R, S - 1, 1]
    """Return the compositing weight of each interval between neighbouring samples.

    Args:
        density: Volume density at the samples; each interval uses the mean of its ends.
            Non-negative for "identity"; raw densities of any sign for "softplus_shifted".
        depths: Distances along the ray, in world units.
        activation: "identity" is the physical form. Published weights were trained with
            "softplus_shifted", softplus(density - 1): even empty space absorbs 0.313 per unit
            length, and density saturates near 9 (spec 6.4).
    """
    absorption = (density[:, :, 1:] + density[:, :, :-1]) / 2
    if activation == "softplus_shifted":
        absorption = torch.nn.functional.softplus(absorption - 1)
    alpha = 1 - torch.exp(-absorption * (depths[:, :, 1:] - depths[:, :, :-1]))
    survival = torch.cat([torch.ones_like(alpha[:, :, :1]), 1 - alpha + 1e-10], dim=2)
    return alpha * survival.cumprod(dim=2)[:, :, :-1]


def composite(
    values: Tensor,  # [B, R, S, C]
    weights: Tensor,  # [B, R, S - 1, 1]
) -> Tensor:  # [B, R, C]
    """Integrate values along rays with the midpoint rule."""
    # Summing with shifted weights equals averaging neighbouring values, but needs less memory.
    return (sample_weights(weights).transpose(2, 3) @ values).squeeze(2)


def sample_weights(
    weights: Tensor,  # [B, R, S - 1, 1]
) -> Tensor:  # [B, R, S, 1]
    """Return each sample's weight: half of each adjacent interval's."""
    padded = torch.nn.functional.pad(weights, (0, 0, 1, 1))
    return (padded[:, :, 1:] + padded[:, :, :-1]) / 2


def expected_depth(
    depths: Tensor,  # [B, R, S, 1]
    weights: Tensor,  # [B, R, S - 1, 1]
) -> Tensor:  # [B, R, 1]
    """Return the weighted mean depth, clamped to the range of all depths; far if empty."""
    opacity = weights.sum(dim=2)
    depth = (composite(depths, weights) / opacity).nan_to_num(float("inf"))
    return depth.clamp(depths.min(), depths.max())


def to_image(
    values: Tensor,  # [B, R, C]
) -> Tensor:  # [B, C, h, w]
    """Arrange the rays of a square image, in row-major order, as an image."""
    side = round(values.shape[1] ** 0.5)
    return values.transpose(1, 2).unflatten(2, (side, side))


def class_scores(
    class_sdf: Tensor,  # [..., K]
    sharpness: float,
) -> Tensor:  # [..., K] in 0..1
    """Return each class's score at points, sigmoid(-sharpness * class_sdf) (spec 6.5)."""
    return torch.sigmoid(-sharpness * class_sdf)


def fill_scores(
    scores: Tensor,  # [B, R, K] composited
    opacity: Tensor,  # [B, R, 1]
    background_class: int | None,
) -> Tensor:  # [B, R, K] in -1..1
    """Add the remaining transparency to the background class, if there is one."""
    if background_class is not None:
        empty = torch.zeros_like(scores)
        empty[..., background_class] = 1
        scores = scores + empty * (1 - opacity)
    return 2 * scores - 1


def fill_colors(
    colors: Tensor,  # [B, R, C] composited
    opacity: Tensor,  # [B, R, 1]
    background: Tensor | None,  # [B, C]
    *,
    is_white: bool,
) -> Tensor:  # [B, R, C] in about -1..1
    """Put a background behind composited colours."""
    if background is not None:
        colors = colors + (1 - opacity) * background.unsqueeze(1)
    elif is_white:
        colors = colors + 1 - opacity
    return 2 * colors - 1


def march_normals(
    sdf_gradient: Tensor,  # [B, R, S, 3]
    weights: Tensor,  # [B, R, S - 1, 1]
) -> Tensor:  # [B, R, 3], length at most 1
    """Composite unit normals: average neighbours, normalise, weight (spec 10.2)."""
    between = unit_normals((sdf_gradient[:, :, 1:] + sdf_gradient[:, :, :-1]) / 2)
    return (between * weights).sum(dim=2)
