"""A field seen through softer surfaces, whose gradients reach farther."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mate3d.field import Field, FieldSamples
from mate3d.sdf_decoder import sdf_to_density


@dataclass
class SoftField:
    """A field whose distances become density with another sharpness length.

    Distances, colours and labels stay the same. A painted mask moves a surface only where density
    has a gradient, which is within a few sharpness lengths of it.

    Args:
        field: Any field.
        beta: Sharpness length, world units.
    """

    field: Field
    beta: float

    @property
    def background(self) -> Tensor | None:
        """Features behind everything: the field's."""
        return self.field.background

    @property
    def device(self) -> torch.device:
        """The field's."""
        return self.field.device

    def sample(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> FieldSamples:
        """Return the field's features and distances."""
        return self.field.sample(points)

    def sdf(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, 1]
        """Return the field's global distance."""
        return self.field.sdf(points)

    def density(
        self,
        sdf: Tensor,  # [...]
    ) -> Tensor:  # [...], per world unit
        """Turn distances into volume density with this sharpness length."""
        return sdf_to_density(sdf, self.beta)
