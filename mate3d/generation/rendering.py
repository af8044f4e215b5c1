"""One view of a head, in square tiles of rays whose number does not depend on the resolution."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mate3d.cameras import CameraRig
from mate3d.errors import UserError
from mate3d.generation.heads import Head
from mate3d.generation.precision import LowPrecisionField, Precision
from mate3d.generator import Generator, RenderOutput
from mate3d.rendering.fast_rendering import render_field_fast
from mate3d.rendering.rays import sample_rays
from mate3d.rendering.renderer import FieldRender, RenderingConfig, render_field

_TILE_SIDE = 128


@dataclass(frozen=True)
class ViewRenderer:
    """Renders views one at a time, so that a view does not depend on which others are asked for.

    Args:
        generator: Frozen.
        precision: Of its networks.
        rendering: Ranges and sample counts.
        resolution: Side of the raw render.
        with_normals: Also render normals, for which the field is differentiated.
        with_segmentation: Also render the segmentation, the larger part of the work.
    """

    generator: Generator
    precision: Precision
    rendering: RenderingConfig
    resolution: int
    with_normals: bool = False
    with_segmentation: bool = True

    @torch.no_grad()
    def render(
        self,
        head: Head,
        camera: Tensor,  # [1, 25]
    ) -> RenderOutput:
        """Render a head from its planes and super-resolve it.

        Raises:
            UserError: If low precision overflows.
        """
        view = self._render_tiles(head, camera.to(self.precision.device))
        with self._same_noise(), self.precision.autocast():
            output = self.generator.superresolve(view, head.ws, exact=self.precision.exact)
        tensors = {name: value for name, value in vars(output).items() if torch.is_tensor(value)}
        output = dataclasses.replace(
            output, **{name: value.float() for name, value in tensors.items()}
        )
        for values in (output.image, output.depth, output.segmentation):
            if values is not None and not values.isfinite().all():
                raise UserError(
                    f"{head.name}: low precision overflows with this generator; use precision=fp32"
                )
        return output

    @contextmanager
    def _same_noise(self) -> Iterator[None]:
        """Give each view the same noise if the super-resolution's is random."""
        if self.generator.config.sr_noise_mode != "random":
            yield
            return
        device = self.precision.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            yield

    def _render_tiles(self, head: Head, camera: Tensor) -> FieldRender:
        rays = [
            part.unflatten(1, (self.resolution, -1))
            for part in sample_rays(camera, self.resolution)
        ]
        count = -(-self.resolution // _TILE_SIDE)
        side = -(-self.resolution // count)
        steps = torch.arange(side, device=camera.device)
        # The last tiles repeat rays of the border where the resolution is no multiple.
        pieces = [(steps + i * side).clamp(max=self.resolution - 1) for i in range(count)]
        rows = [
            [
                self._render_rays(head, *(part[:, y][:, :, x].flatten(1, 2) for part in rays))
                for x in pieces
            ]
            for y in pieces
        ]
        return _stitch(rows, self.resolution)

    def _render_rays(self, head: Head, ray_origins: Tensor, ray_directions: Tensor) -> FieldRender:
        render = render_field if self.precision.exact else render_field_fast
        return render(
            LowPrecisionField(head.field, self.precision),
            ray_origins,
            ray_directions,
            self.rendering,
            with_normals=self.with_normals,
            with_segmentation=self.with_segmentation,
        )


def move_range(rendering: RenderingConfig, rig: CameraRig, own_rig: CameraRig) -> RenderingConfig:
    """Return the rendering for other cameras: near and far follow a change of the radius.

    Args:
        rendering: For the checkpoint's cameras.
        rig: Cameras to render from.
        own_rig: The checkpoint's cameras.

    Raises:
        UserError: If the cameras would stand in the volume.
    """
    shift = rig.radius - own_rig.radius
    if rendering.near + shift <= 0:
        lowest = own_rig.radius - rendering.near
        raise UserError(
            f"views.radius={rig.radius:g} is inside of the volume; use more than {lowest:g}"
        )
    return dataclasses.replace(rendering, near=rendering.near + shift, far=rendering.far + shift)


def _stitch(rows: list[list[FieldRender]], resolution: int) -> FieldRender:
    """Join tiles to one view and drop what hangs over."""

    def join(name: str) -> Tensor | None:
        if getattr(rows[0][0], name) is None:
            return None
        bands = [torch.cat([getattr(tile, name) for tile in row], dim=3) for row in rows]
        return torch.cat(bands, dim=2)[:, :, :resolution, :resolution]

    names = ("feature_image", "segmentation_raw", "depth", "opacity", "normals")
    return FieldRender(**{name: join(name) for name in names}, samples=None)
