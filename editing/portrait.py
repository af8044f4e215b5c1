"""The head to edit: its styles, its views, and the mask that a user paints."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from editing.edited_generator import check_editable
from editing.head_scale import HeadScale, measure_head
from editing.recipe import EditStep, load_edit
from editing.regions import PaintedView
from editing.stacking import Layer, Stack, stacked
from editing.views import LEAST_WEIGHT
from mate3d.atomic import atomic_files
from mate3d.errors import UserError
from mate3d.generation.rendering import Head, HeadMaker, Precision
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
        steps: Edits on this head, the first one first.
        name: Seed or latent file.
    """

    generator: Generator
    ws: Tensor
    steps: tuple[EditStep, ...] = ()
    name: str = ""

    @property
    def seed(self) -> int:
        """The seed of the head; 0 for a latent file."""
        return int(self.name) if self.name.isdecimal() else 0

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
        """Lengths of the head before all edits, measured from the front."""
        if self.steps:
            return self.steps[0].recipe.scale
        return measure_head(self.field, self.camera(), self.generator.config)

    @property
    def head(self) -> Head:
        """The head with all edits, to render it like others."""
        return Head("edited" if self.steps else "head", self.field, self.ws)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The edits as layers of a stack."""
        return tuple(step.layer(self.generator.label_set) for step in self.steps if step.is_shown)

    @cached_property
    def field(self) -> TriPlaneField:
        """The head as a field, with all edits."""
        with torch.no_grad():
            field = self.generator.make_field(self.ws)
            return stacked(field, Stack(field, self.layers)) if self.layers else field


def sample_portrait(generator: Generator, *, seed: int, truncation_psi: float) -> Portrait:
    """Return the head of a seed.

    The latent is drawn with NumPy's legacy normal generator, as in EG3D, and is conditioned on the
    frontal camera.

    Raises:
        UserError: If the seed is not in 0..2**32 - 1, or the generator cannot be edited.
    """
    check_editable(generator)
    device = next(generator.parameters()).device
    if not 0 <= seed < 2**32:
        raise UserError(f"source={seed}: use a seed of 0..4294967295")
    ws = HeadMaker(generator, Precision(device), truncation_psi).style(seed)
    return Portrait(generator, ws, name=str(seed))


def open_portrait(
    generator: Generator, source: int | str | Path, *, truncation_psi: float
) -> Portrait:
    """Return the head that the word `source` means, with all edits on it.

    Args:
        source: A seed, a latent file (.npy with z or style vectors), or the folder of an edit.

    Raises:
        UserError: If it is none of these, or does not fit the generator.
    """
    text = str(source)
    if text.isdecimal():
        return sample_portrait(generator, seed=int(text), truncation_psi=truncation_psi)
    check_editable(generator)
    if Path(text).is_dir():
        recipe, ws, steps = load_edit(text, generator)
        return Portrait(generator, ws, steps, recipe.source)
    try:
        latent = torch.from_numpy(np.load(text, allow_pickle=False)).float()
    except (OSError, ValueError, TypeError, EOFError):
        raise UserError(
            f"source={text}: no such seed, latent file or edit; use 0..4294967295, a .npy file, or"
            " the folder of an edit"
        ) from None
    device = next(generator.parameters()).device
    maker = HeadMaker(generator, Precision(device), truncation_psi)
    shape, z_dim = tuple(latent.shape), generator.config.z_dim
    expected = tuple(maker.style(0).shape)
    if shape in ((z_dim,), (1, z_dim)):
        ws = maker.from_latent(latent.view(1, -1))
    elif shape in (expected, expected[1:]):
        ws = latent.view(expected).to(device)
    else:
        raise UserError(
            f"source={text} has shape {list(shape)}; use [{z_dim}] or {list(expected[1:])}"
        )
    return Portrait(generator, ws, name=text)


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
