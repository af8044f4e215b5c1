"""Views of source and edited head in one go: what the edit cannot reach is rendered once.

The source bounds the region of an edit (`reachable_points`). A ray that meets no reachable sample
shows the source's own features, elsewhere the copy is asked at reachable samples only, and colours,
classes and normals are decoded where they have weight. All of this changes rounding only.
"""

import dataclasses
from functools import cached_property

import torch
from torch import Tensor

from editing.edited_generator import EditedGenerator
from editing.fusion import FusedField, FusedProbe
from editing.local_superresolution import enlarge_window, find_window, paste
from editing.regions import reachable_points
from editing.views import SourceView, soften
from mate3d.generator import RenderOutput
from mate3d.network.synthesis import SuperResolution
from mate3d.rendering.fast_rendering import ProbedSamples, RayMarcher, Rays, RayValues
from mate3d.rendering.rays import DepthDraws, sample_rays
from mate3d.rendering.renderer import FieldRender

# Samples of less weight add less to values of order one than float32 resolves.
_LEAST_WEIGHT = 1e-8
_FIXED = DepthDraws()


def view_source(
    edited: EditedGenerator,
    camera: Tensor,  # [1, 25]
    beta: float | None = None,
    *,
    exact: bool,
    with_normals: bool = False,
) -> SourceView:
    """Return the untouched head at a view, which the edited head can be rendered beside.

    Args:
        edited: Source and learnable copy.
        camera: View.
        beta: Sharpness length to render with, world units; None is the generator's own.
        exact: Render every view as a whole.
        with_normals: Also render the edited head's normals.
    """
    view = SourceView if exact else FastSourceView
    return view(edited, camera, beta, with_normals=with_normals)


class FastSourceView(SourceView):
    """The untouched head at one view, and what the edited head's render takes from it.

    Attributes:
        index: Rays that the edit can reach, [M].
        rays: These rays.
        depths: Of their first samples, [1, M, S, 1].
        distances: The source's there, the whole head's before the classes', [1, M, S, 1 + K].
        values: Composited values of all rays.
    """

    @torch.no_grad()
    def __init__(
        self, edited: EditedGenerator, camera: Tensor, beta: float | None, *, with_normals: bool
    ):
        super().__init__(edited, camera, beta, with_normals=with_normals)
        config, probe = edited.generator.config, edited.source_probe
        self.marcher = RayMarcher(
            config.rendering, soften(probe.field, beta).density, _LEAST_WEIGHT
        )
        rays = Rays(*sample_rays(camera, config.neural_rendering_resolution))
        depths = self.marcher.coarse_depths(rays, _FIXED)
        coarse = self.marcher.probe(probe, rays, depths)
        parts = self.marcher.refine(probe, rays, coarse, self.marcher.fine_uniforms(rays, _FIXED))
        class_sdf = [probe.class_distances(part.state).unsqueeze(0) for part in parts]
        is_reachable = [
            reachable_points(edited.region, part.points, values).view(part.depths.shape[1:3])
            for part, values in zip(parts, class_sdf, strict=True)
        ]
        self.index = torch.cat(is_reachable, dim=1).any(dim=1).nonzero().squeeze(1)
        self.rays, self.depths = rays.take(self.index), depths[:, self.index]
        distances = torch.cat([coarse.sdf, class_sdf[0].unflatten(1, depths.shape[1:3])], dim=-1)
        self.distances = distances[:, self.index]
        self.values = self.marcher.march(probe, parts, with_normals=with_normals)

    def fused(self, field: FusedField, *, with_segmentation_gradient: bool = True) -> RenderOutput:
        """See `SourceView`."""
        values = self.values
        if len(self.index) > 0:
            values = values.with_rays(self.index, self._march(field))
        view = seen = self._as_images(values)
        if not with_segmentation_gradient:
            seen = dataclasses.replace(view, segmentation_raw=view.segmentation_raw.detach())
        generator, ws = self.edited.generator, self.edited.source_ws
        output = generator.superresolve(seen, ws, enlarge=self.enlarge)
        return dataclasses.replace(output, segmentation_raw=view.segmentation_raw)

    def enlarge(
        self,
        network: SuperResolution,
        image_raw: Tensor,  # [1, C, h, w]
        features: Tensor,  # [1, F, h, w]
        ws: Tensor,  # [1, L, w_dim]
    ) -> Tensor:  # [1, C, H, W]
        """Super-resolve as far as the edit can change; the rest is the source's."""
        is_image = network is self.edited.generator.superresolution
        whole = self._whole.image if is_image else self._whole.segmentation
        if len(self.index) == 0:
            return whole
        window = find_window(network, self.index, features.shape[-1])
        if window is None:
            return network(image_raw, features, ws)
        return paste(whole, window, enlarge_window(network, window, image_raw, features, ws))

    def _march(self, field: FusedField) -> RayValues:
        """Return the edited head's values of the rays that the edit can reach."""
        probe, marcher, points = FusedProbe(field), self.marcher, self.rays.points(self.depths)
        sdf, state = probe.begin_from(points, self.distances.flatten(1, 2))
        coarse = ProbedSamples(self.depths, points, sdf.view(self.depths.shape), state)
        uniforms = marcher.fine_uniforms(self.rays, _FIXED)
        parts = marcher.refine(probe, self.rays, coarse, uniforms)
        return marcher.march(probe, parts, with_normals=self.with_normals)

    def _as_images(self, values: RayValues) -> FieldRender:
        return values.as_images(self.marcher.config, self.edited.source_probe.field.background)

    def _render(self) -> RenderOutput:
        features = self._as_images(self.values).feature_image
        network, ws = self.edited.generator.superresolution, self.edited.source_ws
        # Computed as the edited head's is, so that pixels which do not change are equal.
        image = self.enlarge(network, features[:, :3], features, ws)
        return dataclasses.replace(self._whole, image=image)

    @cached_property
    def _whole(self) -> RenderOutput:
        """The source's pictures, computed without regard to gradients."""
        with torch.no_grad():
            view, generator = self._as_images(self.values), self.edited.generator
            return generator.superresolve(view, self.edited.source_ws, exact=False)
