"""Analytic fields with known answers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mate3d.network.sdf_decoder import sdf_to_density
from mate3d.rendering.field import FieldSamples


@dataclass
class SphereField:
    """A red ball of class 1; class 0 is empty space."""

    radius: float = 0.2
    beta: float = 0.0004
    background: Tensor | None = None
    device: torch.device = torch.device("cpu")

    def sdf(self, points: Tensor) -> Tensor:
        return points.norm(dim=-1, keepdim=True) - self.radius

    def sample(self, points: Tensor) -> FieldSamples:
        sdf = self.sdf(points)
        red = points.new_tensor([1.0, 0.0, 0.0]).expand_as(points)
        return FieldSamples(red, sdf, torch.cat([torch.full_like(sdf, 0.5), sdf], dim=-1))

    def density(self, sdf: Tensor) -> Tensor:
        return sdf_to_density(sdf, self.beta)


@dataclass
class PartsField:
    """The union of parts given by their distances; part k is of class k + 1, class 0 is empty.

    The colour of a point is its position: 0..1 along each axis of a box of side 1.
    """

    parts: tuple[Callable[[Tensor], Tensor], ...]
    beta: float = 0.0004
    background: Tensor | None = None
    device: torch.device = torch.device("cpu")

    def class_sdf(self, points: Tensor) -> Tensor:
        distances = [part(points) for part in self.parts]
        return torch.cat([torch.full_like(distances[0], 0.5), *distances], dim=-1)

    def sdf(self, points: Tensor) -> Tensor:
        return self.class_sdf(points)[..., 1:].amin(dim=-1, keepdim=True)

    def sample(self, points: Tensor) -> FieldSamples:
        return FieldSamples(points + 0.5, self.sdf(points), self.class_sdf(points))

    def density(self, sdf: Tensor) -> Tensor:
        return sdf_to_density(sdf, self.beta)


def ball(radius: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)):
    """Return the distance to a ball."""
    return lambda points: (points - points.new_tensor(centre)).norm(dim=-1, keepdim=True) - radius


def torus(ring: float, tube: float):
    """Return the distance to a torus around the z axis."""

    def distance(points: Tensor) -> Tensor:
        from_ring = points[..., :2].norm(dim=-1) - ring
        return (torch.stack([from_ring, points[..., 2]]).norm(dim=0) - tube).unsqueeze(-1)

    return distance


def cube(half_side: float):
    """Return the distance, in the maximum norm, to an axis-aligned cube."""
    return lambda points: points.abs().amax(dim=-1, keepdim=True) - half_side


def gradient_norms(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Return how fast values change with the position, by central differences."""
    step = 1e-3
    differences = [
        function(points + step * axis) - function(points - step * axis) for axis in torch.eye(3)
    ]
    return torch.stack(differences, dim=-1).norm(dim=-1) / (2 * step)


def latents(num: int, seed: int = 0) -> Tensor:  # [num, 64]
    """Draw latents of procedural portraits."""
    return torch.randn(num, 64, generator=torch.Generator().manual_seed(seed))
