"""Analytic fields with known answers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mate3d.field import FieldSamples
from mate3d.sdf_decoder import sdf_to_density


@dataclass
class SphereField:
    """A red ball of class 1; class 0 is empty space."""

    radius: float = 0.2
    beta: float = 0.0004
    background: Tensor | None = None

    def sdf(self, points: Tensor) -> Tensor:
        return points.norm(dim=-1, keepdim=True) - self.radius

    def sample(self, points: Tensor) -> FieldSamples:
        sdf = self.sdf(points)
        red = points.new_tensor([1.0, 0.0, 0.0]).expand_as(points)
        return FieldSamples(red, sdf, torch.cat([torch.full_like(sdf, 0.5), sdf], dim=-1))

    def density(self, sdf: Tensor) -> Tensor:
        return sdf_to_density(sdf, self.beta)
