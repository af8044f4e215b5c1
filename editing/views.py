"""Views of source and edited head: rendered whole, or only where the edit can reach.

The source bounds the region of an edit (`reachable_points`). A ray without reachable samples keeps
the source's features. On other rays the copy is evaluated at reachable samples only. Colours,
classes and normals are decoded only where they have weight. The super-resolutions are convolutions
without statistics over the image, so a window with enough context around it gives the same values
as the whole image. Results differ by rounding only.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from editing.edited_generator import EditedGenerator
from editing.fusion import FusedField, FusedProbe
from editing.head_scale import HeadScale
from editing.regions import reachable_points
from mate3d.cameras import view_normals
from mate3d.generator import RenderOutput
from mate3d.labels import segmentation_to_label_map
from mate3d.network.synthesis import SuperResolution
from mate3d.rendering.fast_rendering import ProbedSamples, RayMarcher, Rays, RayValues
from mate3d.rendering.field import Field, WrappedField
from mate3d.rendering.rays import DepthDraws, sample_rays
from mate3d.rendering.renderer import FieldRender

# An output pixel of a block depends on this many input pixels to each side: one for the up-sampling
# convolution, one for its filter, and one for the second convolution (half of one if up-sampled).
_BLOCK_RADIUS = 3
# Samples of lower weight change values of order one by less than float32 precision.
LEAST_WEIGHT = 1e-8
# Where normals of a pixel cancel, their mean has no direction; a shorter one than this stays short.
_LEAST_LENGTH = 0.1
_FIXED = DepthDraws()
# Softens the surfaces of a field.
Softness = Callable[[Field], Field]


@dataclass(frozen=True)
class SoftField(WrappedField):
    """A field whose surfaces are wider and no denser than its own.

    Distances, colours and labels stay the same. A painted mask moves a surface only where the
    density has a gradient, within a few widths of the surface.

    Args:
        field: Any field.
        width: Width w of density = peak * sigmoid(-d / w), in units of the distance.
        peak: Density inside, per world unit.
    """

    width: float
    peak: float

    def density(
        self,
        sdf: Tensor,  # [...]
    ) -> Tensor:  # [...], per world unit
        """Turn distances into volume density with this width and peak."""
        return self.peak * torch.sigmoid(-sdf / self.width)


def find_softness(
    thickness: float | None,
    scale: HeadScale,
    own_peak: float,
) -> Softness | None:
    """Return what makes surfaces of a field at least as thick as a share of the head's size.

    With density sigmoid(-d / w) / w, transmittance through a plane surface is sigmoid(d / w), which
    falls from 0.9 to 0.1 over 2 ln(9) w.

    Args:
        thickness: Share of the head's size; None for no softening.
        scale: Lengths of the head.
        own_peak: The generator's density inside, per world unit, which is not exceeded.

    Returns:
        None if the head's surfaces are that thick already.
    """
    if thickness is None or scale.thickness >= thickness * scale.size:
        return None
    width = thickness * scale.size / (2 * math.log(9))
    return partial(SoftField, width=width * scale.slope, peak=min(1 / width, own_peak))


def soften(field: Field, softness: Softness | None) -> Field:
    """Return the softened field; None returns it unchanged."""
    return field if softness is None else softness(field)


class SourceView:
    """The source head at one view, and renders of the edited head at the same view.

    Args:
        edited: Source and learnable copy.
        camera: View, [1, 25].
        softness: How surfaces are softened; None renders them as they are.
        with_normals: Also render the edited head's normals.
    """

    def __init__(
        self,
        edited: EditedGenerator,
        camera: Tensor,
        softness: Softness | None,
        *,
        with_normals: bool,
    ):
        self.edited, self.camera, self.softness = edited, camera, softness
        self.with_normals = with_normals

    @cached_property
    def output(self) -> RenderOutput:
        """The source head, rendered without gradients at first use."""
        with torch.no_grad():
            return self._render()

    @cached_property
    def label_map(self) -> Tensor:  # [1, H, W]
        """Label map of the source head."""
        return segmentation_to_label_map(self.output.segmentation)

    def fused(self, field: FusedField, *, with_segmentation_gradient: bool = True) -> RenderOutput:
        """Render the edited head with the same sharpness as the source.

        Args:
            with_segmentation_gradient: Whether a loss depends on `segmentation`. This class records
                its gradients in either case.
        """
        edited = self.edited
        view = edited.render_raw(
            soften(field, self.softness), self.camera, with_normals=self.with_normals
        )
        return edited.generator.superresolve(
            view, edited.source_ws, semantic_features=self._semantic_features(view)
        )

    def _semantic_features(self, view: FieldRender) -> Tensor:  # [1, F, h, w]
        """Return the features that an edited segmentation is enlarged with.

        They are the source's but where raw labels have changed. With the edited head's own
        everywhere, a change of colour alone would change its mask.
        """
        source = self._raw
        old, new = (segmentation_to_label_map(each.segmentation_raw) for each in (source, view))
        is_changed = (old != new).unsqueeze(1)
        return torch.where(is_changed, view.feature_image.detach(), source.feature_image)

    @cached_property
    def _raw(self) -> FieldRender:
        """The source's images before super-resolution."""
        with torch.no_grad():
            return self._render_raw()

    def _render(self) -> RenderOutput:
        return self.edited.generator.superresolve(self._raw, self.edited.source_ws)

    def _render_raw(self) -> FieldRender:
        field = soften(self.edited.source_field(), self.softness)
        return self.edited.render_raw(field, self.camera)


def picture_normals(
    view: RenderOutput,
    camera: Tensor,  # [1, 25]
) -> Tensor | None:  # [1, 3, H, W] in [-1, 1]
    """Return a view's normals as colours at the size of its image; None if they were not rendered.

    Red, green and blue are `view_normals`. They are interpolated and made unit vectors again, so
    that shading is smooth, and fade to mid-grey where the head does: the background is flat.
    """
    if view.normals is None:
        return None
    values = torch.cat([view_normals(view.normals, camera), view.opacity], dim=1)
    values = F.interpolate(values, size=view.image.shape[-2:], mode="bilinear")
    normals, opacity = values.split((3, 1), dim=1)
    return F.normalize(normals, dim=1, eps=_LEAST_LENGTH) * opacity


def view_source(
    edited: EditedGenerator,
    camera: Tensor,  # [1, 25]
    softness: Softness | None = None,
    *,
    exact: bool,
    with_normals: bool = False,
) -> SourceView:
    """Return the source head at a view; the edited head is rendered from it.

    Args:
        exact: Render every view as a whole.
    """
    view = SourceView if exact else FastSourceView
    return view(edited, camera, softness, with_normals=with_normals)


class FastSourceView(SourceView):
    """The source head at one view, and the values that renders of the edited head reuse.

    Attributes:
        index: Indices of the rays that the edit can reach, [M].
        rays: These rays.
        depths: Depths of their coarse samples, [1, M, S, 1].
        distances: Source distances at these samples, first the whole head's, then those of the
            classes, [1, M, S, 1 + K].
        values: Composited values of all rays.
    """

    @torch.no_grad()
    def __init__(
        self,
        edited: EditedGenerator,
        camera: Tensor,
        softness: Softness | None,
        *,
        with_normals: bool,
    ):
        super().__init__(edited, camera, softness, with_normals=with_normals)
        config, probe = edited.generator.config, edited.source_probe
        self.marcher = RayMarcher(
            config.rendering, soften(probe.field, softness).density, LEAST_WEIGHT
        )
        rays = Rays(*sample_rays(camera, config.neural_rendering_resolution))
        depths = self.marcher.coarse_depths(rays, _FIXED)
        coarse = self.marcher.probe(probe, rays, depths)
        parts = self.marcher.refine(probe, rays, coarse, self.marcher.fine_uniforms(rays, _FIXED))
        class_sdf = [probe.class_distances(part.state).unsqueeze(0) for part in parts]
        is_reachable = [
            self._reachable(part.points, values).view(part.depths.shape[1:3])
            for part, values in zip(parts, class_sdf, strict=True)
        ]
        self.index = torch.cat(is_reachable, dim=1).any(dim=1).nonzero().squeeze(1)
        self.rays, self.depths = rays.take(self.index), depths[:, self.index]
        distances = torch.cat([coarse.sdf, class_sdf[0].unflatten(1, depths.shape[1:3])], dim=-1)
        self.distances = distances[:, self.index]
        self.values = self.marcher.march(probe, parts, with_normals=with_normals)

    def fused(self, field: FusedField, *, with_segmentation_gradient: bool = True) -> RenderOutput:
        values = self.values
        if len(self.index) > 0:
            values = values.with_rays(self.index, self._march(field))
        view = seen = self._as_images(values)
        if not with_segmentation_gradient:
            seen = dataclasses.replace(view, segmentation_raw=view.segmentation_raw.detach())
        generator, ws = self.edited.generator, self.edited.source_ws
        output = generator.superresolve(
            seen, ws, semantic_features=self._semantic_features(view), enlarge=self.enlarge
        )
        return dataclasses.replace(output, segmentation_raw=view.segmentation_raw)

    def enlarge(
        self,
        network: SuperResolution,
        image_raw: Tensor,  # [1, C, h, w]
        features: Tensor,  # [1, F, h, w]
        ws: Tensor,  # [1, L, w_dim]
    ) -> Tensor:  # [1, C, H, W]
        """Super-resolve the pixels that the edit can change; copy the rest from the source."""
        is_image = network is self.edited.generator.superresolution
        whole = self._whole.image if is_image else self._whole.segmentation
        if len(self.index) == 0:
            return whole
        window = find_window(network, self.index, features.shape[-1])
        if window is None:
            return network(image_raw, features, ws)
        return enlarge_window(network, window, whole, image_raw, features, ws)

    def _reachable(
        self,
        points: Tensor,  # [1, N, 3]
        source_class_sdf: Tensor,  # [1, N, K]
    ) -> Tensor:  # [1, N] bool
        reachable = reachable_points(self.edited.region, points, source_class_sdf)
        if self.edited.look is not None:
            reachable |= reachable_points(self.edited.look, points, source_class_sdf)
        return reachable

    def _march(self, field: FusedField) -> RayValues:
        """Return the edited head's values on the rays that the edit can reach."""
        probe, marcher, points = FusedProbe(field), self.marcher, self.rays.points(self.depths)
        sdf, state = probe.begin_from(points, self.distances.flatten(1, 2))
        coarse = ProbedSamples(self.depths, points, sdf.view(self.depths.shape), state)
        uniforms = marcher.fine_uniforms(self.rays, _FIXED)
        parts = marcher.refine(probe, self.rays, coarse, uniforms)
        return marcher.march(probe, parts, with_normals=self.with_normals)

    def _as_images(self, values: RayValues) -> FieldRender:
        return values.as_images(self.marcher.config, self.edited.source_probe.field.background)

    def _render_raw(self) -> FieldRender:
        return self._as_images(self.values)

    def _render(self) -> RenderOutput:
        features = self._raw.feature_image
        network, ws = self.edited.generator.superresolution, self.edited.source_ws
        # Computed like the edited head's image, so that unchanged pixels are exactly equal.
        image = self.enlarge(network, features[:, :3], features, ws)
        return dataclasses.replace(self._whole, image=image)

    @cached_property
    def _whole(self) -> RenderOutput:
        """The source's images, computed without gradients."""
        with torch.no_grad():
            return self.edited.generator.superresolve(self._raw, self.edited.source_ws, exact=False)


@dataclass(frozen=True)
class Window:
    """The rectangle of an image that an edit can change; each field has slices of rows, columns.

    Args:
        context: Part of the input that the rectangle depends on.
        changed: The rectangle in the whole output.
        within: The rectangle in the output computed from `context`.
    """

    context: tuple[slice, ...]
    changed: tuple[slice, ...]
    within: tuple[slice, ...]


def find_window(
    network: SuperResolution,
    index: Tensor,  # [M], at least one
    side: int,
) -> Window | None:
    """Return the window that some rays of a raw render can change.

    Args:
        index: Indices of these rays among the `side` x `side` rays, row by row.
        side: Side of the raw render.

    Returns:
        The window; None if the network adds noise, which depends on the position in the image.
    """
    if network.noise_mode != "none":
        return None
    axes = (index.div(side, rounding_mode="floor"), index % side)
    spans = [_spans(network, int(axis.min()), int(axis.max()) + 1, side) for axis in axes]
    return Window(*zip(*spans, strict=True))


def enlarge_window(
    network: SuperResolution,
    window: Window,
    whole: Tensor,  # [1, image_channels, H, W]
    image_raw: Tensor,  # [1, image_channels, h, w]
    feature_image: Tensor,  # [1, feature_channels, h, w]
    ws: Tensor,  # [1, L, w_dim]
) -> Tensor:  # [1, image_channels, H, W]
    """Return the full-size image `whole` with the window's changed part computed again."""
    image, x, style_rows = network.prepare(image_raw, feature_image, ws)
    context = (..., *window.context)
    x, images = x[context], {"image": image[context]}
    for block in network.blocks:
        x, images = block(x, images, style_rows, network.noise_mode)
    pasted = whole.clone()
    pasted[(..., *window.changed)] = images["image"][(..., *window.within)]
    return pasted


def _spans(network: SuperResolution, low: int, high: int, side: int) -> tuple[slice, slice, slice]:
    """Return a window's three slices along an axis whose raw pixels `low` to `high` change."""
    size, scale = network.input_resolution, network.input_resolution / side
    if size != side:
        # Resizing mixes neighbouring pixels of the coarser of the two grids.
        low, high = math.floor((low - 1) * scale) - 1, math.ceil((high + 1) * scale) + 1
    radius, enlarged = 0.0, 1
    for block in network.blocks:
        radius += _BLOCK_RADIUS / enlarged
        enlarged *= block.up
    radius = math.ceil(radius)
    first, last = max(low - radius, 0), min(high + radius, size)
    start, stop = max(low - 2 * radius, 0), min(high + 2 * radius, size)
    changed = slice(enlarged * first, enlarged * last)
    within = slice(enlarged * (first - start), enlarged * (last - start))
    return slice(start, stop), changed, within
