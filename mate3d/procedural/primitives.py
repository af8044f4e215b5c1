"""Signed distances of simple solids and their smooth union; each coordinate is its own tensor.

Only fresh results that no gradient needs are changed in place, so all stay differentiable.
"""

import torch
from torch import Tensor


def smooth_union(
    first: Tensor,  # [B, N]
    second: Tensor,  # [B, N]
    width: float,
) -> Tensor:  # [B, N]
    """Join two distances with a rounded seam; `width` is the blend's reach in world units."""
    overlap = (width - (first - second).abs()).clamp_(min=0)
    return torch.minimum(first, second).sub_(overlap.square_().mul_(0.25 / width))


def ellipsoid_distance(
    offset: tuple[Tensor, Tensor, Tensor],  # each [B, N], from the centre
    radii: tuple[Tensor, Tensor, Tensor],  # each [B, 1]
) -> Tensor:  # [B, N]
    """Approximate an ellipsoid's distance to first order; good while the radii are alike."""
    scaled = [axis / radius for axis, radius in zip(offset, radii, strict=True)]
    level = (scaled[0].square() + scaled[1].square()).add_(scaled[2].square()).sqrt_()
    slopes = [(axis / radius).square_() for axis, radius in zip(scaled, radii, strict=True)]
    slope = (slopes[0] + slopes[1]).add_(slopes[2]).clamp_(min=1e-12).sqrt_()
    return level * (level - 1) / slope


def round_cone_profile(
    across: Tensor,  # [B, N] distance from the axis, at least 0
    along: Tensor,  # [B, N] coordinate along the axis from the first end
    length: Tensor,  # [B, 1]
    first_radius: Tensor,  # [B, 1]
    last_radius: Tensor,  # [B, 1]
) -> Tensor:  # [B, N]
    """Return the exact distance to the hull of two balls (discs in 2D) on a common axis.

    The distance minimises |p - axis(t)| - radius(t), which is convex in t, so clamping the
    unconstrained minimiser to the segment is exact. The radii differ by less than `length`.
    """
    taper = (first_radius - last_radius) / length
    nearest = along - across * (taper / (1 - taper.square()).sqrt())
    nearest = torch.minimum(nearest.clamp_(min=0), length)
    distance = (along - nearest).square_().add_(across.square()).sqrt_()
    return (distance - first_radius).add_(nearest * taper)


def round_cone_distance(
    offset: tuple[Tensor, Tensor, Tensor],  # each [B, N], from the first end
    axis: Tensor,  # [B, 3] first end to last end
    first_radius: Tensor,  # [B, 1]
    last_radius: Tensor,  # [B, 1]
) -> Tensor:  # [B, N]
    """Return the exact distance to a segment thickened by radii that differ at its ends."""
    length = axis.norm(dim=-1, keepdim=True)
    direction = axis / length
    along = offset[0] * direction[:, :1]
    along = along.add_(offset[1] * direction[:, 1:2]).add_(offset[2] * direction[:, 2:])
    squared = offset[0].square().add_(offset[1].square()).add_(offset[2].square())
    across = squared.sub_(along.square()).clamp_(min=1e-12).sqrt_()
    return round_cone_profile(across, along, length, first_radius, last_radius)


def extrude_profile(
    profile: Tensor,  # [B, N] exact 2D distance
    height: Tensor,  # [B, N] coordinate across the plane
    half_thickness: float,
    edge_radius: float,
) -> Tensor:  # [B, N]
    """Thicken a 2D shape to a plate with rounded edges; exact for an exact profile."""
    side = profile + edge_radius
    face = height.abs().sub_(half_thickness - edge_radius)
    outside = side.clamp(min=0).square_().add_(face.clamp(min=0).square_())
    # The floor keeps the root's gradient finite inside the plate.
    outside = outside.clamp_(min=1e-12).sqrt_()
    return torch.maximum(side, face).clamp_(max=0).add_(outside).sub_(edge_radius)


def smooth_intersection(
    first: Tensor,  # [B, N]
    second: Tensor,  # [B, N]
    width: float,
) -> Tensor:  # [B, N]
    """Keep what lies inside both, with a rounded edge; negate `second` to carve it out."""
    overlap = (width - (first - second).abs()).clamp_(min=0)
    return torch.maximum(first, second).add_(overlap.square_().mul_(0.25 / width))


def sphere_distance(
    offset: tuple[Tensor, Tensor, Tensor],  # each [B, N], from the centre
    radius: Tensor | float,  # [B, 1]
) -> Tensor:  # [B, N]
    """Return the exact distance to a ball."""
    squared = offset[0].square().add_(offset[1].square()).add_(offset[2].square())
    return squared.clamp_(min=1e-12).sqrt_() - radius


def offset_from(
    place: tuple[Tensor, Tensor, Tensor],  # each [B, N]
    center: Tensor,  # [B, 3]
) -> tuple[Tensor, Tensor, Tensor]:  # each [B, N]
    """Return coordinates relative to a centre."""
    return tuple(axis - center[:, i : i + 1] for i, axis in enumerate(place))


def along_axis(
    offset: tuple[Tensor, Tensor, Tensor],  # each [B, N]
    axis: Tensor,  # [B, 3]
) -> Tensor:  # [B, N]
    """Return the dot product with a vector."""
    total = offset[0] * axis[:, :1]
    return total.add_(offset[1] * axis[:, 1:2]).add_(offset[2] * axis[:, 2:])


def stack_points(
    *coordinates: Tensor | float,
    like: Tensor,  # [B, 1]
) -> Tensor:  # [B, 3]
    """Make one point a batch entry of three numbers or columns."""
    return torch.cat([torch.zeros_like(like) + value for value in coordinates], dim=-1)
