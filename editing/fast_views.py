"""Views of source and edited head in one go: what the edit cannot reach is rendered once.

The source bounds the region of an edit (`reachable_points`). A ray that meets no reachable sample
shows the source's own features, elsewhere the copy is asked at reachable samples only, and colours
and normals are decoded where they have weight. All of this changes rounding only.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from editing.edited_generator import EditedGenerator
from editing.fusion import FusedField
from editing.local_superresolution import enlarge_window, find_window, paste
from editing.ray_values import (
    KnownSamples,
    Rays,
    RayValues,
    coarse_depths,
    composite_rays,
    fine_depths,
    visible_samples,
)
from editing.regions import reachable_points
from editing.soft_field import soften
from editing.views import ExactViews, SourceView, Views
from mate3d.generator import RenderOutput
from mate3d.network.superresolution import SuperResolution
from mate3d.rendering.field import field_gradient
from mate3d.rendering.rays import sample_rays
from mate3d.rendering.renderer import RaySamples
from mate3d.rendering.volume_rendering import interval_weights


class FastSourceView(SourceView):
    """The untouched head at one view, and what the edited head's render takes from it.

    Args:
        edited: Source and learnable copy.
        camera: View, [1, 25].
        beta: Sharpness length to render with, world units; None is the generator's own.
        with_normals: Also composite normals, of the rays that the edit cannot reach.

    Attributes:
        index: Rays that the edit can reach, [M].
        rays: These rays.
        coarse: The source's distances at their first samples, the whole head's before the classes'.
        values: Composited values of all rays.
    """

    @torch.no_grad()
    def __init__(
        self, edited: EditedGenerator, camera: Tensor, beta: float | None, *, with_normals: bool
    ):
        super().__init__(edited, camera, beta)
        config = edited.generator.config
        self.rendering, self.num_features = config.rendering, config.num_features
        self.field = edited.source_field()
        rays = Rays(*sample_rays(camera, config.neural_rendering_resolution))
        coarse = self.look(rays, coarse_depths(rays, self.rendering))
        samples = coarse.merge(self.look_finer(rays, coarse, coarse.values[..., :1]))
        is_reachable = self._reachable_rays(samples)
        self.index = is_reachable.nonzero().squeeze(1)
        self.rays, self.coarse = rays.take(self.index), coarse.take(self.index)
        self.values = self._composite(samples, ~is_reachable if with_normals else None)

    def look(
        self,
        rays: Rays,
        depths: Tensor,  # [1, R, S, 1]
    ) -> KnownSamples:
        """Return all distances of the source at depths of rays."""
        points = rays.points(depths)
        features = self.field.shape_features(points.flatten(1, 2))
        values = torch.cat(self.field.decoder.distances(features), dim=-1)
        return KnownSamples(depths, points, values.unflatten(1, depths.shape[1:3]))

    def look_finer(
        self,
        rays: Rays,
        coarse: KnownSamples,
        sdf: Tensor,  # [1, R, S, 1]
    ) -> KnownSamples:
        """Return them where a head has weight whose distances at coarse samples are given."""
        depths = fine_depths(coarse.depths, self._density(sdf), self.rendering)
        return self.look(rays, depths)

    def composite(
        self,
        samples: KnownSamples,
        sdf: Tensor,  # [1, R, S, 1]
        class_sdf: Tensor,  # [1, R, S, K]
        decode: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    ) -> RayValues:
        """March a head whose distances are known.

        Args:
            samples: Depths and points.
            sdf: The whole head.
            class_sdf: Its parts.
            decode: Given where there is weight, [1, R, S] bool, returns colour features
                [1, R, S, C] and gradients of the distance [1, R, S, 3] or None; zero elsewhere.
        """
        density = self._density(sdf)
        weights = interval_weights(density, samples.depths, self.rendering.density_activation)
        features, gradient = decode(visible_samples(weights))
        ray_samples = RaySamples(
            samples.depths, samples.points, features, sdf, class_sdf, density, weights, gradient
        )
        return composite_rays(ray_samples, self.rendering, self.field.background)

    def colors(
        self,
        points: Tensor,  # [1, N, 3]
    ) -> Tensor:  # [1, N, C]
        """Return the source's colour features."""
        return self.field.decoder.colors(self.field.texture_features(points))

    def sdf_gradient(
        self,
        points: Tensor,  # [1, N, 3]
    ) -> Tensor:  # [1, N, 3]
        """Return the gradient of the source's distance."""
        return field_gradient(self.field, points)

    def _density(self, sdf: Tensor) -> Tensor:
        return soften(self.field, self.beta).density(sdf)

    def _reachable_rays(self, samples: KnownSamples) -> Tensor:  # [R] bool
        points, class_sdf = samples.points.flatten(1, 2), samples.values[..., 1:].flatten(1, 2)
        is_reachable = reachable_points(self.edited.region, points, class_sdf)
        return is_reachable.view(samples.depths.shape[1:3]).any(dim=1)

    def _composite(
        self,
        samples: KnownSamples,
        normal_rays: Tensor | None,  # [R] bool
    ) -> RayValues:
        points, width = samples.points.flatten(1, 2), self.num_features

        def decode(is_visible: Tensor) -> tuple[Tensor, Tensor | None]:
            colors = _fill(width, (is_visible, lambda i: self.colors(points[:, i])))
            if normal_rays is None:
                return colors, None
            is_visible = is_visible & normal_rays[:, None]
            return colors, _fill(3, (is_visible, lambda i: self.sdf_gradient(points[:, i])))

        return self.composite(samples, samples.values[..., :1], samples.values[..., 1:], decode)

    def _render(self) -> RenderOutput:
        features = self.values.as_images().feature_image
        network = self.edited.generator.superresolution
        # Computed as the edited head's is, so that pixels which do not change are equal.
        image = self.enlarge_image(network, "image", features[:, :3], features)
        # Normals are known only where the edit reaches.
        return dataclasses.replace(self._whole, image=image, normals=None)

    @cached_property
    def _whole(self) -> RenderOutput:
        """The source's pictures, computed without regard to gradients."""
        with torch.no_grad():
            view, generator = self.values.as_images(), self.edited.generator
            return generator.superresolve(view, self.edited.source_ws, exact=False)

    def enlarge(
        self, values: RayValues, *, with_segmentation_gradient: bool = False
    ) -> RenderOutput:
        """Super-resolve composited values that differ from the source's at `index` only."""
        generator, view = self.edited.generator, values.as_images()
        features, scores = view.feature_image, view.segmentation_raw
        if not with_segmentation_gradient:
            scores = scores.detach()
        return RenderOutput(
            image=self.enlarge_image(generator.superresolution, "image", features[:, :3], features),
            image_raw=features[:, :3],
            segmentation=self.enlarge_image(
                generator.segmentation_superresolution, "segmentation", scores, features.detach()
            ),
            segmentation_raw=view.segmentation_raw,
            depth=view.depth,
            opacity=view.opacity,
            normals=view.normals,
        )

    def enlarge_image(
        self,
        network: SuperResolution,
        name: str,
        image_raw: Tensor,  # [1, C, h, w]
        features: Tensor,  # [1, F, h, w]
    ) -> Tensor:  # [1, C, H, W]
        """Super-resolve the picture of a name in `RenderOutput` as far as it can change."""
        ws = self.edited.source_ws
        if len(self.index) == 0:
            return getattr(self._whole, name)
        window = find_window(network, self.index, features.shape[-1])
        if window is None:
            return network(image_raw, features, ws)
        part = enlarge_window(network, window, image_raw, features, ws)
        return paste(getattr(self._whole, name), network, window, part)


def make_views(edited: EditedGenerator, *, exact: bool) -> Views:
    """Return the way to render that an edit asks for."""
    return ExactViews(edited) if exact else FastViews(edited)


class FastViews:
    """Renders a head beside its source; see the module.

    Args:
        edited: Source and learnable copy.
    """

    def __init__(self, edited: EditedGenerator):
        self.edited = edited

    def source(
        self, camera: Tensor, beta: float | None, *, with_normals: bool = False
    ) -> FastSourceView:
        """See `Views`."""
        return FastSourceView(self.edited, camera, beta, with_normals=with_normals)

    def fused(
        self,
        head: FusedField,
        source: FastSourceView,
        *,
        with_normals: bool = False,
        with_segmentation_gradient: bool = True,
    ) -> RenderOutput:
        """See `Views`."""
        values = source.values
        if len(source.index) > 0:
            values = values.with_rays(source.index, _march_fused(head, source, with_normals))
        return source.enlarge(values, with_segmentation_gradient=with_segmentation_gradient)


def _march_fused(head: FusedField, source: FastSourceView, with_normals: bool) -> RayValues:
    """Return the edited head's values of the rays that the edit can reach."""
    with torch.no_grad():
        coarse = _with_share(head, source.coarse)
        coarse_sdf = _fused_distances(head, coarse)[..., :1]
        finer = source.look_finer(source.rays, source.coarse, coarse_sdf)
        samples = coarse.merge(_with_share(head, finer))
    points, share = samples.points.flatten(1, 2), samples.values[..., -1:].flatten(1, 2)
    is_changed = samples.values[..., -1] > 0
    distances, width = _fused_distances(head, samples), source.num_features

    def decode(is_visible: Tensor) -> tuple[Tensor, Tensor | None]:
        kept, changed = is_visible & ~is_changed, is_visible & is_changed
        colors = _fill(
            width,
            (kept, lambda i: source.colors(points[:, i])),
            (changed, lambda i: head.colors(points[:, i], share[:, i])),
        )
        if not with_normals:
            return colors, None
        return colors, _fill(
            3,
            (kept, lambda i: source.sdf_gradient(points[:, i])),
            (changed, lambda i: head.sdf_gradient(points[:, i], share[:, i])),
        )

    return source.composite(samples, distances[..., :1], distances[..., 1:], decode)


def _with_share(head: FusedField, samples: KnownSamples) -> KnownSamples:
    """Add the share of the edited copy to the source's distances."""
    points, class_sdf = samples.points.flatten(1, 2), samples.values[..., 1:].flatten(1, 2)
    share = head.share_of(points, class_sdf).unflatten(1, samples.depths.shape[1:3])
    return KnownSamples(samples.depths, samples.points, torch.cat([samples.values, share], -1))


def _fused_distances(head: FusedField, samples: KnownSamples) -> Tensor:  # [1, R, S, 1 + K]
    """Return all distances of the fused head from the source's and the share of the copy."""
    flat = samples.values.flatten(1, 2)
    distances, index = flat[..., :-1], flat[0, :, -1].nonzero().squeeze(1)
    if len(index) > 0:
        changed = head.distances(samples.points.flatten(1, 2)[:, index], flat[:, index, -1:])
        distances = distances.index_copy(1, index, changed)
    return distances.unflatten(1, samples.depths.shape[1:3])


def _fill(
    width: int,
    *parts: tuple[Tensor, Callable[[Tensor], Tensor]],  # [1, R, S] bool; [M] -> [1, M, width]
) -> Tensor:  # [1, R, S, width]
    """Put values where they are needed, from functions of the flat index; elsewhere zero."""
    where = parts[0][0]
    filled = torch.zeros(1, where.numel(), width, device=where.device)
    for where, function in parts:
        index = where.flatten().nonzero().squeeze(1)
        if len(index) > 0:
            filled = filled.index_copy(1, index, function(index))
    return filled.unflatten(1, where.shape[1:])
