"""Make heads from seeds, and render a view of a head in tiles and at the requested precision."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from mate3d.cameras import CameraRig
from mate3d.errors import UserError
from mate3d.generator import Generator, RenderOutput
from mate3d.network.mapping import latents_from_seeds
from mate3d.rendering.fast_rendering import render_field_fast
from mate3d.rendering.rays import sample_rays
from mate3d.rendering.renderer import FieldRender, RenderingConfig, render_field
from mate3d.rendering.triplane import TriPlaneField

_TILE_SIDE = 128


@dataclass(frozen=True)
class Precision:
    """Device and precision of the networks.

    Rays, depths, look-ups, the decoder's heads and compositing always run in float32, because half
    precision moves pixels and causes bands in the depth.

    Args:
        dtype: Precision of backbone and super-resolution: torch.float32, torch.bfloat16 or
            torch.float16.
        exact: Use the slower path that evaluates everything; see `Generator.render`.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    exact: bool = False

    def autocast(self) -> torch.autocast:
        """Return the autocast context of the networks."""
        is_low = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if is_low else None, enabled=is_low)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Run a block with deterministic algorithms.

    CPU algorithms always are. On a GPU, some convolutions and sums are not by default, and matrix
    products need a fixed workspace, which must be set before the first product of the process.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was_on = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=only_warned)


@dataclass(frozen=True)
class Head:
    """A head with computed planes, from which all its views are rendered.

    Args:
        name: Used in file names.
        ws: Style vectors for the super-resolution, [1, L, w_dim].
    """

    name: str
    field: TriPlaneField
    ws: Tensor


@dataclass(frozen=True)
class HeadMaker:
    """Makes heads one at a time, so a head does not depend on the others in a run.

    Latents are conditioned on the checkpoint's frontal camera, independent of the views.
    """

    generator: Generator
    precision: Precision
    truncation_psi: float = 1.0
    truncation_cutoff: int | None = None

    def style(self, seed: int) -> Tensor:  # [1, L, w_dim]
        """Return the truncated style vectors of a seed."""
        return self.from_latent(latents_from_seeds([seed], self.generator.config.z_dim))

    @torch.no_grad()
    def from_latent(
        self,
        z: Tensor,  # [1, z_dim]
    ) -> Tensor:  # [1, L, w_dim]
        """Return the truncated style vectors of a latent."""
        config, device = self.generator.config, self.precision.device
        return self.generator.map(
            z.to(device),
            config.camera_rig.make_camera().to(device),
            truncation_psi=self.truncation_psi,
            truncation_cutoff=self.truncation_cutoff,
        )

    @torch.no_grad()
    def from_style(
        self,
        name: str,
        ws: Tensor,  # [1, L, w_dim]
    ) -> Head:
        """Return the head of some style vectors."""
        return Head(name, self.generator.make_field(ws, self._make_planes(ws)), ws)

    def from_seed(self, seed: int) -> Head:
        """Return the head of a seed."""
        return self.from_style(f"seed{seed:04d}", self.style(seed))

    @torch.no_grad()
    def mixed(self, shape_seed: int, texture_seed: int) -> Head:
        """Return a head with the shape planes of one seed and the texture planes of another.

        The shape planes determine the distances of all labels. Background and super-resolution
        follow the texture seed.
        """
        _, shape_planes = self._make_planes(self.style(shape_seed))
        ws = self.style(texture_seed)
        texture_planes, _ = self._make_planes(ws)
        name = f"shape{shape_seed:04d}_texture{texture_seed:04d}"
        return Head(name, self.generator.make_field(ws, (texture_planes, shape_planes)), ws)

    def interpolated(self, seeds: Sequence[int], frames_per_seed: int) -> Iterator[Head]:
        """Yield the heads on a closed path through seeds; see `interpolate_styles`."""
        styles = torch.cat([self.style(seed) for seed in seeds])
        for ws in interpolate_styles(styles, frames_per_seed):
            yield self.from_style("interpolation", ws)

    def _make_planes(self, ws: Tensor) -> tuple[Tensor, Tensor]:
        with self.precision.autocast():
            texture, shape = self.generator.make_planes(ws, exact=self.precision.exact)
        planes = texture.float()
        # The field recognises a generator with a single tri-plane by this identity.
        return planes, planes if shape is texture else shape.float()


def interpolate_styles(
    styles: Tensor,  # [B, L, w_dim]
    frames_per_style: int,
) -> Iterator[Tensor]:  # each [1, L, w_dim]
    """Yield style vectors on a closed path through all given ones.

    The path is a periodic cubic spline with the seeds evenly spaced in time, so speed and
    acceleration are continuous and the last frame leads back to the first.
    """
    assert len(styles) >= 2, styles.shape
    knots = styles.double().cpu().numpy()
    spline = CubicSpline(
        np.arange(len(knots) + 1), np.concatenate([knots, knots[:1]]), bc_type="periodic"
    )
    for frame in range(len(styles) * frames_per_style):
        whole, part = divmod(frame, frames_per_style)
        values = knots[whole] if part == 0 else spline(frame / frames_per_style)
        yield torch.from_numpy(values).to(styles).unsqueeze(0)


@dataclass(frozen=True)
class ViewRenderer:
    """Renders views one at a time, so a view does not depend on the others in a run.

    Args:
        rendering: Depth range and sample counts.
        resolution: Side of the raw render.
        with_normals: Also render normals, which need the gradient of the field.
        with_segmentation: Also render the segmentation, which is most of the work.
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
        """Use the same noise for each view if the super-resolution's noise is random."""
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
        # The last tiles repeat border rays if the resolution is not a multiple of the tile side.
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
            head.field,
            ray_origins,
            ray_directions,
            self.rendering,
            with_normals=self.with_normals,
            with_segmentation=self.with_segmentation,
        )


def move_range(rendering: RenderingConfig, rig: CameraRig, own_rig: CameraRig) -> RenderingConfig:
    """Move near and far of a rendering for `own_rig`, a checkpoint's, to the radius of `rig`.

    Raises:
        UserError: If the cameras would be inside the volume.
    """
    shift = rig.radius - own_rig.radius
    if rendering.near + shift <= 0:
        lowest = own_rig.radius - rendering.near
        raise UserError(
            f"views.radius={rig.radius:g} is inside the volume; use more than {lowest:g}"
        )
    return dataclasses.replace(rendering, near=rendering.near + shift, far=rendering.far + shift)


def _stitch(rows: list[list[FieldRender]], resolution: int) -> FieldRender:
    """Join tiles to one view and drop the rays beyond its border."""

    def join(name: str) -> Tensor | None:
        if getattr(rows[0][0], name) is None:
            return None
        bands = [torch.cat([getattr(tile, name) for tile in row], dim=3) for row in rows]
        return torch.cat(bands, dim=2)[:, :, :resolution, :resolution]

    names = ("feature_image", "segmentation_raw", "depth", "opacity", "normals")
    return FieldRender(**{name: join(name) for name in names}, samples=None)
