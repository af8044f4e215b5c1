"""The head to edit: its styles, its views, and the mask that a user paints."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from editing.edited_generator import check_editable
from editing.head_scale import HeadScale, measure_head
from editing.regions import PaintedView
from editing.views import LEAST_WEIGHT
from mate3d.atomic import atomic_files
from mate3d.errors import UserError
from mate3d.generation.rendering import HeadMaker, Precision
from mate3d.generator import Generator, RenderOutput
from mate3d.label_files import load_label_map
from mate3d.labels import save_label_map, segmentation_to_label_map
from mate3d.outputs.visualize import save_image
from mate3d.rendering.fast_rendering import render_field_fast
from mate3d.rendering.rays import sample_rays
from mate3d.rendering.triplane import TriPlaneField

# The mask to paint; no edit writes a file of this name.
PAINTING = "paint_me.png"


@dataclass(frozen=True)
class Portrait:
    """The head to edit.

    Args:
        generator: Frozen source generator.
        ws: Style vectors, [1, L, w_dim].
    """

    generator: Generator
    ws: Tensor

    def camera(self, yaw: float = 0.0, pitch: float = 0.0) -> Tensor:  # [1, 25]
        """Return the camera at an angle in radians; the default is frontal."""
        return self.generator.config.camera_rig.make_camera(yaw, pitch).to(self.ws)

    @torch.no_grad()
    def render(
        self,
        camera: Tensor,  # [1, 25]
    ) -> RenderOutput:
        """Render a view of the head the fast way, equal to `Generator.render` up to rounding."""
        rays = sample_rays(camera, self.generator.config.neural_rendering_resolution)
        rendering = self.generator.config.rendering
        view = render_field_fast(self.field, *rays, rendering, negligible_weight=LEAST_WEIGHT)
        return self.generator.superresolve(view, self.ws, exact=False)

    def view(
        self,
        camera: Tensor,  # [1, 25]
    ) -> PaintedView:
        """Return a view in which nothing is painted yet."""
        label_map = segmentation_to_label_map(self.render(camera).segmentation)
        return PaintedView(camera, label_map, label_map)

    @cached_property
    def scale(self) -> HeadScale:
        """Lengths of the head, measured from the front."""
        return measure_head(self.field, self.camera(), self.generator.config)

    @cached_property
    def field(self) -> TriPlaneField:
        """The head as a field."""
        with torch.no_grad():
            return self.generator.make_field(self.ws)


def sample_portrait(generator: Generator, *, seed: int, truncation_psi: float) -> Portrait:
    """Return the head of a seed.

    The latent is drawn with NumPy's legacy normal generator, as in EG3D, and is conditioned on the
    frontal camera.

    Raises:
        UserError: If the seed is not in 0..2**32 - 1, or the generator cannot be edited.
    """
    check_editable(generator)
    device = next(generator.parameters()).device
    return Portrait(generator, HeadMaker(generator, Precision(device), truncation_psi).style(seed))


def write_source(
    folder: str | Path,
    portrait: Portrait,
    camera: Tensor,  # [1, 25]
) -> Path:
    """Write source.png and the mask to paint, and return the mask's path.

    Raises:
        UserError: If the folder has a mask that differs: it was painted, or shows another head.
    """
    view, label_set = portrait.render(camera), portrait.generator.label_set
    label_map = segmentation_to_label_map(view.segmentation)[0].cpu().numpy().astype("uint8")
    path = Path(folder) / PAINTING
    if path.exists():
        try:
            is_same = np.array_equal(load_label_map(path, label_set), label_map)
        except UserError:
            is_same = False
        if not is_same:
            raise UserError(
                f"{path} is painted or shows another head; move it, or choose another output"
            )
    with atomic_files(folder) as temporary:
        save_image(temporary / "source.png", view.image[0])
        save_label_map(temporary / PAINTING, label_map, label_set)
    return path
