"""Sphere tracing of procedural heads: antialiased image, label map, depth, normals, opacity."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mate3d.procedural.portrait_field import PortraitField
from mate3d.rendering.rays import sample_rays

_HIT_DISTANCE = 4e-4


@dataclass
class AnalyticRender:
    """Exact render of procedural heads.

    Args:
        image: [B, 3, H, W] in [-1, 1], antialiased, over the background colour.
        label_map: [B, H, W] int64, the class at the pixel centre.
        depth: [B, 1, H, W] distance along the unit ray through the pixel centre; background 0.
        normals: [B, 3, H, W] unit world normals at the pixel centre; background 0.
        opacity: [B, 1, H, W] fraction of the pixel covered by the head.
    """

    image: Tensor
    label_map: Tensor
    depth: Tensor
    normals: Tensor
    opacity: Tensor


@dataclass
class RayHits:
    """Results of single rays.

    Args:
        depth: [B, R] distance along the unit ray; background 0.
        colors: [B, R, 3] in 0..1; the background colour where nothing is hit.
        labels: [B, R] int64 class of the surface.
    """

    depth: Tensor
    colors: Tensor
    labels: Tensor


@torch.no_grad()
def trace_rays(
    field: PortraitField,
    ray_origins: Tensor,  # [B, R, 3]
    ray_directions: Tensor,  # [B, R, 3]
) -> RayHits:
    """Trace any rays, without antialiasing; training uses a few rays from many views."""
    bounds = _bounds(ray_origins, ray_directions, field.bound_radius)
    depth = _trace(field, ray_origins, ray_directions, *bounds)
    hit = depth > 0
    points = ray_origins + depth[..., None] * ray_directions
    labels, _ = _describe_hits(field, points, hit)
    return RayHits(depth=depth, colors=_shade(field, points, hit), labels=labels)


@torch.no_grad()
def render_analytic(
    field: PortraitField,
    camera: Tensor,  # [B, 25]
    resolution: int,
    *,
    supersampling: int = 2,
) -> AnalyticRender:
    """Trace one ray through each pixel centre, and a grid of rays per pixel for the image.

    Args:
        resolution: H = W in pixels.
        supersampling: Rays per pixel along each axis for image and opacity; 1 uses the centres.
    """
    num_batch, size = len(camera), resolution
    origins, directions = sample_rays(camera, size)
    depth = _trace(field, origins, directions, *_bounds(origins, directions, field.bound_radius))
    hit = depth > 0
    points = origins + depth[..., None] * directions
    label_map, normals = _describe_hits(field, points, hit)
    if supersampling == 1:
        image, opacity = _shade(field, points, hit), hit.float()[..., None]
    else:
        image, opacity = _supersample(field, camera, depth, size, supersampling)
    return AnalyticRender(
        image=_to_image(image, size) * 2 - 1,
        label_map=label_map.view(num_batch, size, size),
        depth=depth.view(num_batch, 1, size, size),
        normals=_to_image(normals, size),
        opacity=_to_image(opacity, size),
    )


def _to_image(values: Tensor, size: int) -> Tensor:  # [B, R, C] -> [B, C, H, W]
    return values.transpose(1, 2).unflatten(-1, (size, size)).contiguous()


def _bounds(
    origins: Tensor,  # [B, R, 3]
    directions: Tensor,  # [B, R, 3]
    radius: float,
) -> tuple[Tensor, Tensor]:  # each [B, R]
    """Return where rays enter and leave the bounding ball; entry > exit if they miss it."""
    middle = -(origins * directions).sum(dim=-1)
    closest = origins.square().sum(dim=-1) - middle.square()
    half = (radius**2 - closest).clamp(min=0).sqrt()
    return middle - half, torch.where(half > 0, middle + half, middle - 1)


def _trace(
    field: PortraitField,
    origins: Tensor,  # [B, R, 3]
    directions: Tensor,  # [B, R, 3]
    near: Tensor,  # [B, R]
    far: Tensor,  # [B, R]
) -> Tensor:  # [B, R], 0 where nothing is hit
    """Sphere-trace all rays, dropping those that have hit or left."""
    result = torch.zeros_like(near)
    index, alive = _compact(near < far)
    depth, far = near.gather(1, index), far.gather(1, index)
    origins, directions = _gather(origins, index), _gather(directions, index)
    for _ in range(field.max_steps):
        distance = field.sdf(torch.addcmul(origins, depth[..., None], directions))[..., 0]
        depth = depth + distance
        is_hit = alive & (distance < _HIT_DISTANCE)
        result.scatter_(1, index, torch.where(is_hit, depth, result.gather(1, index)))
        alive = alive & ~is_hit & (depth < far)
        longest = int(alive.sum(dim=1).max())
        if longest == 0:
            break
        # Compacting the remaining rays costs about as much as marching a quarter of them.
        if longest < 0.75 * alive.shape[1]:
            kept, still_alive = _compact(alive)
            index, depth, far = (values.gather(1, kept) for values in (index, depth, far))
            origins, directions = _gather(origins, kept), _gather(directions, kept)
            alive = still_alive
    return result


def _compact(active: Tensor) -> tuple[Tensor, Tensor]:  # [B, R] -> [B, M], [B, M]
    """Return indices of the active rays, padded to the longest row, and which are real."""
    counts = active.sum(dim=1)
    longest = int(counts.max())
    order = active.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :longest]
    return order, torch.arange(longest, device=active.device) < counts[:, None]


def _gather(values: Tensor, index: Tensor) -> Tensor:  # [B, R, 3], [B, M] -> [B, M, 3]
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def _scatter(values: Tensor, index: Tensor, base: Tensor) -> Tensor:  # -> [B, R, C]
    return base.scatter(1, index[..., None].expand_as(values), values)


def _describe_hits(
    field: PortraitField, points: Tensor, hit: Tensor
) -> tuple[Tensor, Tensor]:  # [B, R], [B, R, 3]
    index, valid = _compact(hit)
    at_hits = _gather(points, index)
    labels = field.class_sdf(at_hits).argmin(dim=-1) * valid
    normals = field.normals(at_hits) * valid[..., None]
    return (
        torch.zeros_like(hit, dtype=torch.int64).scatter(1, index, labels),
        _scatter(normals, index, torch.zeros_like(points)),
    )


def _shade(field: PortraitField, points: Tensor, hit: Tensor) -> Tensor:  # [B, R, 3] in 0..1
    index, valid = _compact(hit)
    background = field.background[:, None]
    colors = torch.where(
        valid[..., None], field.sample(_gather(points, index)).features, background
    )
    return _scatter(colors, index, background.expand_as(points))


def _supersample(
    field: PortraitField,
    camera: Tensor,  # [B, 25]
    center_depth: Tensor,  # [B, R]
    size: int,
    supersampling: int,
) -> tuple[Tensor, Tensor]:  # colour [B, R, 3] in 0..1, opacity [B, R, 1]
    """Average a grid of rays per pixel.

    Rays start just before the nearest hit of the neighbouring centre rays, so that a few short
    steps are enough except at silhouettes and depth edges.
    """
    origins, directions = sample_rays(camera, size * supersampling)
    near, far = _bounds(origins, directions, field.bound_radius)
    front = torch.where(center_depth > 0, center_depth, center_depth.new_tensor(torch.inf))
    front = -torch.nn.functional.max_pool2d(
        -front.view(-1, 1, size, size), kernel_size=3, stride=1, padding=1
    )
    front = front.repeat_interleave(supersampling, 2).repeat_interleave(supersampling, 3)
    near = torch.maximum(near, front.flatten(1) - 0.02)
    depth = _trace(field, origins, directions, near, far)
    hit = depth > 0
    colors = _shade(field, origins + depth[..., None] * directions, hit)
    together = torch.cat([colors, hit[..., None].to(colors.dtype)], dim=-1)
    pooled = torch.nn.functional.avg_pool2d(
        _to_image(together, size * supersampling), supersampling
    )
    pooled = pooled.flatten(2).transpose(1, 2)
    return pooled[..., :3], pooled[..., 3:]
