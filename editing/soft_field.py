"""A field seen through softer surfaces, whose gradients reach farther."""

from dataclasses import dataclass

from torch import Tensor

from mate3d.network.sdf_decoder import sdf_to_density
from mate3d.rendering.field import Field, WrappedField


@dataclass(frozen=True)
class SoftField(WrappedField):
    """A field whose distances become density with another sharpness length.

    Distances, colours and labels stay the same. A painted mask moves a surface only where density
    has a gradient, which is within a few sharpness lengths of it.

    Args:
        field: Any field.
        beta: Sharpness length, world units.
    """

    beta: float

    def density(
        self,
        sdf: Tensor,  # [...]
    ) -> Tensor:  # [...], per world unit
        """Turn distances into volume density with this sharpness length."""
        return sdf_to_density(sdf, self.beta)


def soften(field: Field, beta: float | None) -> Field:
    """Return a field as sharp as `beta` says; None leaves it as it is."""
    return field if beta is None else SoftField(field, beta)
