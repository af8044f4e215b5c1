"""Seeds to heads: of one seed, mixed from two, or on a smooth closed path through several."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from mate3d.generation.precision import Precision
from mate3d.generator import Generator
from mate3d.network.mapping import latents_from_seeds
from mate3d.rendering.triplane import TriPlaneField


@dataclass(frozen=True)
class Head:
    """A head whose planes are made; every view of it is rendered from them.

    Args:
        name: Part of file names.
        field: The head.
        ws: Style vectors of the super-resolution, [1, L, w_dim].
    """

    name: str
    field: TriPlaneField
    ws: Tensor


@dataclass(frozen=True)
class HeadMaker:
    """Makes heads one at a time, so that a head does not depend on which others are asked for.

    Latents are conditioned on the checkpoint's frontal camera, whatever the views are.

    Args:
        generator: Frozen.
        precision: Of the backbone.
        truncation_psi: See `Generator.map`.
        truncation_cutoff: See `Generator.map`.
    """

    generator: Generator
    precision: Precision
    truncation_psi: float = 1.0
    truncation_cutoff: int | None = None

    @torch.no_grad()
    def style(self, seed: int) -> Tensor:  # [1, L, w_dim]
        """Return the truncated style vectors of a seed."""
        config = self.generator.config
        camera = config.camera_rig.make_camera()
        z = latents_from_seeds([seed], config.z_dim)
        return self.generator.map(
            z.to(self.precision.device),
            camera.to(self.precision.device),
            truncation_psi=self.truncation_psi,
            truncation_cutoff=self.truncation_cutoff,
        )

    @torch.no_grad()
    def from_style(
        self,
        name: str,
        ws: Tensor,  # [1, L, w_dim]
    ) -> Head:
        """Return the head of style vectors."""
        return Head(name, self.generator.make_field(ws, self._make_planes(ws)), ws)

    def from_seed(self, seed: int) -> Head:
        """Return the head of a seed."""
        return self.from_style(f"seed{seed:04d}", self.style(seed))

    @torch.no_grad()
    def mixed(self, shape_seed: int, texture_seed: int) -> Head:
        """Return a head with the shape planes of one seed and the texture planes of another.

        Distances of all labels come from the shape planes. What belongs to the look (background
        and super-resolution) follows the texture's seed.
        """
        _, shape_planes = self._make_planes(self.style(shape_seed))
        ws = self.style(texture_seed)
        texture_planes, _ = self._make_planes(ws)
        name = f"shape{shape_seed:04d}_texture{texture_seed:04d}"
        return Head(name, self.generator.make_field(ws, (texture_planes, shape_planes)), ws)

    def interpolated(self, seeds: Sequence[int], frames_per_seed: int) -> Iterator[Head]:
        """Yield the heads on a closed path through seeds, see `interpolate_styles`."""
        styles = torch.cat([self.style(seed) for seed in seeds])
        for ws in interpolate_styles(styles, frames_per_seed):
            yield self.from_style("interpolation", ws)

    def _make_planes(self, ws: Tensor) -> tuple[Tensor, Tensor]:
        with self.precision.autocast():
            texture_planes, shape_planes = self.generator.make_planes(
                ws, exact=self.precision.exact
            )
        if shape_planes is texture_planes:
            # The field knows a generator with one tri-plane by this identity.
            planes = texture_planes.float()
            return planes, planes
        return texture_planes.float(), shape_planes.float()


def interpolate_styles(
    styles: Tensor,  # [B, L, w_dim]
    frames_per_style: int,
) -> Iterator[Tensor]:  # each [1, L, w_dim]
    """Yield style vectors on a closed path that passes through each given one.

    The path is a periodic cubic spline with the seeds evenly spaced in time: speed and
    acceleration do not jump, and the frame after the last is the first.
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
