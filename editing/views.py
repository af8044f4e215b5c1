"""Views of source and edited head, rendered one as the other, with surfaces softened or not."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from editing.edited_generator import EditedGenerator
from editing.fusion import FusedField
from mate3d.generator import RenderOutput
from mate3d.labels import segmentation_to_label_map
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


class SourceView:
    """The untouched head at one view, and the edited one beside it, each rendered as a whole.

    Args:
        edited: Source and learnable copy.
        camera: View, [1, 25].
        beta: Sharpness length to render with, world units; None is the generator's own.
        with_normals: Also render the edited head's normals.
    """

    def __init__(
        self, edited: EditedGenerator, camera: Tensor, beta: float | None, *, with_normals: bool
    ):
        self.edited, self.camera, self.beta = edited, camera, beta
        self.with_normals = with_normals

    @cached_property
    def output(self) -> RenderOutput:
        """The untouched head, rendered when first asked for; it needs no gradients."""
        with torch.no_grad():
            return self._render()

    @cached_property
    def label_map(self) -> Tensor:  # [1, H, W]
        """Its mask."""
        return segmentation_to_label_map(self.output.segmentation)

    def fused(self, field: FusedField, *, with_segmentation_gradient: bool = True) -> RenderOutput:
        """Render the edited head, as sharp as the source.

        Args:
            field: Source and learnable copy fused.
            with_segmentation_gradient: Whether a loss will be taken of `segmentation`; here its
                gradients are recorded in either case.
        """
        seen = soften(field, self.beta)
        return self.edited.render(seen, self.camera, with_normals=self.with_normals)

    def _render(self) -> RenderOutput:
        return self.edited.render(soften(self.edited.source_field(), self.beta), self.camera)
