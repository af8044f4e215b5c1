"""Views of source and edited head, rendered one as the other: the straightforward way."""

from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from editing.edited_generator import EditedGenerator
from editing.fusion import FusedField
from editing.soft_field import soften
from mate3d.generator import RenderOutput
from mate3d.labels import segmentation_to_label_map


class SourceView:
    """The untouched head at one view, rendered when first asked for; it needs no gradients.

    Args:
        edited: Source and learnable copy.
        camera: View, [1, 25].
        beta: Sharpness length to render with, world units; None is the generator's own.
    """

    def __init__(self, edited: EditedGenerator, camera: Tensor, beta: float | None):
        self.edited, self.camera, self.beta = edited, camera, beta

    @cached_property
    def output(self) -> RenderOutput:
        """The rendered head."""
        with torch.no_grad():
            return self._render()

    @cached_property
    def label_map(self) -> Tensor:  # [1, H, W]
        """Its mask."""
        return segmentation_to_label_map(self.output.segmentation)

    def _render(self) -> RenderOutput:
        return self.edited.render(soften(self.edited.source_field(), self.beta), self.camera)


class Views(Protocol):
    """Makes views of the source and, beside them, of the edited head."""

    def source(
        self, camera: Tensor, beta: float | None, *, with_normals: bool = False
    ) -> SourceView:
        """Return the untouched head at a view."""

    def fused(
        self,
        head: FusedField,
        source: SourceView,
        *,
        with_normals: bool = False,
        with_segmentation_gradient: bool = True,
    ) -> RenderOutput:
        """Render the edited head at the source's view, as sharp as the source.

        Args:
            head: Source and learnable copy fused.
            source: The view.
            with_normals: Also composite SDF normals.
            with_segmentation_gradient: Whether a loss will be taken of `segmentation`.
        """


class ExactViews:
    """Renders every view as a whole; what `FastViews` is compared with.

    Args:
        edited: Source and learnable copy.
    """

    def __init__(self, edited: EditedGenerator):
        self.edited = edited

    def source(
        self, camera: Tensor, beta: float | None, *, with_normals: bool = False
    ) -> SourceView:
        """See `Views`."""
        return SourceView(self.edited, camera, beta)

    def fused(
        self,
        head: FusedField,
        source: SourceView,
        *,
        with_normals: bool = False,
        with_segmentation_gradient: bool = True,
    ) -> RenderOutput:
        """See `Views`; gradients are recorded whatever is asked for."""
        seen = soften(head, source.beta)
        return self.edited.render(seen, source.camera, with_normals=with_normals)
