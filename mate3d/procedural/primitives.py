"""Signed distances of simple solids and their smooth union; coordinates are separate tensors.

In-place operations touch only fresh tensors that no gradient needs, so all is differentiable.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

_SHORTEST_AXIS = 1e-9
# Larger temporary tensors make the allocator request fresh memory every time.
_MAX_NUMBERS = 131072


def smooth_union(
    first: Tensor,  # [B, N]
    second: Tensor,  # [B, N]
    width: float,
) -> Tensor:  # [B, N]
    """Join two distances with a rounded seam; `width` is the blend's reach in world units."""
    lack = (first - second).abs_().clamp_(max=width).sub_(width)
    return torch.minimum(first, second).addcmul_(lack, lack, value=-0.25 / width)


def ellipsoid_distance(
    offset: tuple[Tensor, Tensor, Tensor],  # each [B, N], from the centre
    radii: tuple[Tensor, Tensor, Tensor],  # each [B, 1]
) -> Tensor:  # [B, N]
    """Approximate an ellipsoid's distance to first order; accurate if the radii are similar."""
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
    """Return the exact distance to the convex hull of two balls (discs in 2D).

    The distance minimises |p - axis(t)| - radius(t), which is convex in t, so clamping the
    unconstrained minimiser to the segment is exact. The radii must differ by less than `length`.
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
    """Return the exact distance to a round cone: a segment with a different radius at each end."""
    length = axis.norm(dim=-1, keepdim=True)
    direction = axis / length
    along = offset[0] * direction[:, :1]
    along = along.add_(offset[1] * direction[:, 1:2]).add_(offset[2] * direction[:, 2:])
    squared = offset[0].square().add_(offset[1].square()).add_(offset[2].square())
    across = squared.sub_(along.square()).clamp_(min=1e-12).sqrt_()
    return round_cone_profile(across, along, length, first_radius, last_radius)


class RoundCone(NamedTuple):
    """A segment with a radius at each end; the radii differ by less than its length."""

    start: Tensor  # [B, 3]
    axis: Tensor  # [B, 3] first end to last end
    first_radius: Tensor  # [B, 1]
    last_radius: Tensor  # [B, 1]

    def distance(
        self,
        place: tuple[Tensor, Tensor, Tensor],  # each [B, N]
    ) -> Tensor:  # [B, N]
        """Return the exact distance to this cone."""
        return round_cone_distance(offset_from(place, self.start), *self[1:])


def ball(
    center: Tensor,  # [B, 3]
    radius: Tensor,  # [B, 1]
) -> RoundCone:
    """Return a ball as a round cone of length zero."""
    return RoundCone(center, torch.zeros_like(center), radius, radius)


def chain(
    points: Sequence[Tensor],  # [B, 3] each
    radii: Sequence[Tensor],  # [B, 1] each
) -> list[RoundCone]:
    """Return the round cones from point to point."""
    return [
        RoundCone(points[i], points[i + 1] - points[i], radii[i], radii[i + 1])
        for i in range(len(points) - 1)
    ]


class RoundCones:
    """Named unions of round cones, evaluated together.

    A few operations on all cones cost far less than the same operations on each of them.
    """

    def __init__(self, solids: Mapping[str, Sequence[RoundCone]]) -> None:
        self._counts = {name: len(cones) for name, cones in solids.items()}
        start, axis, first, last = (
            torch.stack(values, dim=1)  # [B, C, 3 or 1]
            for values in zip(*(cone for cones in solids.values() for cone in cones), strict=True)
        )
        self._length = axis.norm(dim=-1, keepdim=True).clamp(min=_SHORTEST_AXIS)
        self._start, self._direction = start.split(1, dim=-1), (axis / self._length).split(1, -1)
        self._radius, self._taper = first, (first - last) / self._length
        self._slope = self._taper / (1 - self._taper.square()).sqrt()

    def distances(
        self,
        place: tuple[Tensor, Tensor, Tensor],  # each [B, N]
    ) -> dict[str, Tensor]:  # [B, N] each
        """Return the exact distance to each union."""
        size = max(1, _MAX_NUMBERS // self._radius.numel())
        if place[0].device.type != "cpu" or place[0].shape[-1] <= size:
            return self._distances_at_once(place)
        pieces = [
            self._distances_at_once(piece)
            for piece in zip(*(axis.split(size, dim=-1) for axis in place), strict=True)
        ]
        return {name: torch.cat([piece[name] for piece in pieces], dim=-1) for name in self._counts}

    def _distances_at_once(self, place: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        x, y, z = (
            axis[:, None] - start for axis, start in zip(place, self._start, strict=True)
        )  # [B, C, N]
        along_x, along_y, along_z = self._direction
        along = (x * along_x).addcmul_(y, along_y).addcmul_(z, along_z)
        squared = x.square().addcmul_(y, y).addcmul_(z, z)
        squared = squared.addcmul_(along, along, value=-1).clamp_(min=1e-12)
        nearest = torch.addcmul(along, squared.sqrt(), self._slope, value=-1).clamp_(min=0)
        # `clamp` with a tensor as the upper limit is several times slower.
        nearest = torch.minimum(nearest, self._length)
        rest = along - nearest
        distance = squared.addcmul(rest, rest).sqrt_()
        distance = (distance - self._radius).addcmul_(nearest, self._taper)
        groups = distance.split(list(self._counts.values()), dim=1)
        return {
            name: reduce(torch.minimum, group.unbind(1))
            for name, group in zip(self._counts, groups, strict=True)
        }


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
    """Intersect two shapes with a rounded edge; negate `second` to carve it out."""
    lack = (first - second).abs_().clamp_(max=width).sub_(width)
    return torch.maximum(first, second).addcmul_(lack, lack, value=0.25 / width)


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
    """Stack three numbers or columns into one point per batch entry."""
    return torch.cat([torch.zeros_like(like) + value for value in coordinates], dim=-1)


def ramp(value: Tensor, low: float, high: float) -> Tensor:
    """Rise linearly from 0 at `low` to 1 at `high` (falls where high < low)."""
    return ((value - low) * (1 / (high - low))).clamp_(0, 1)


def mix(
    color: Tensor,  # [B, 3, N or 1]
    other: Tensor,  # [B, 3, N or 1] or [3, 1]
    weight: Tensor,  # [B, N]
) -> Tensor:  # [B, 3, N]
    """Interpolate between two colours with a weight in 0..1."""
    return torch.lerp(color, other, weight[:, None])


def blend(
    colors: Iterable[Tensor],  # [B, 3, N or 1] each
    distances: Iterable[Tensor],  # [B, N] each
    nearest: Tensor,  # [B, N] their minimum
    border: float,
) -> Tensor:  # [B, 3, N]
    """Blend the colours of parts by distance, over a few `border` widths around the nearest."""
    total, mixed = torch.zeros_like(nearest), nearest.new_zeros(len(nearest), 3, nearest.shape[1])
    for color, distance in zip(colors, distances, strict=True):
        weight = (nearest - distance).mul_(1 / border).exp_()
        total += weight
        mixed.addcmul_(color.expand_as(mixed), weight[:, None])
    # Far from a person, the nearest class may have no part here; avoid 0 / 0.
    return mixed.div_(total.clamp_(min=1e-30)[:, None])
