"""Views of source and edited head, rendered one as the other: the straightforward way."""

from functools import cached_property

import torch
from torch import Tensor

from editing.edited_generator import EditedGenerator
from editing.fusion import FusedField
from editing.soft_field import soften
from mate3d.generator import RenderOutput
from mate3d.labels import segmentation_to_label_map


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

    def fused(self, head: FusedField, *, with_segmentation_gradient: bool = True) -> RenderOutput:
        """Render the edited head, as sharp as the source.

        Args:
            head: Source and learnable copy fused.
            with_segmentation_gradient: Whether a loss will be taken of `segmentation`; here its
                gradients are recorded in either case.
        """
        seen = soften(head, self.beta)
        return self.edited.render(seen, self.camera, with_normals=self.with_normals)

    def _render(self) -> RenderOutput:
        return self.edited.render(soften(self.edited.source_field(), self.beta), self.camera)
