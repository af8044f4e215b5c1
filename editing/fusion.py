"""Fusion: the features of source and edited copy, mixed by region and decoded once."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import methodcaller

import torch
from torch import Tensor

from editing.regions import EditRegion, reachable_points
from mate3d.rendering.field import FieldProbe, FieldSamples, field_gradient
from mate3d.rendering.triplane import TriPlaneField


@dataclass
class FusedField:
    """A field that equals the source outside a region and the edited copy inside it.

    Features are mixed and decoded with the source's decoder, so an edit changes the planes only.
    Outside the region, samples are bit for bit those of the source.

    Args:
        source: Field of the frozen generator; batch 1.
        edited: Field of the learnable copy; its decoder is used for 3D labels only.
        region: Share of the edited copy at points; no gradient flows through it.
        look: Share of the edited copy's texture alone at further points, from the source's class
            distances; None for no such points.
    """

    source: TriPlaneField
    edited: TriPlaneField
    region: EditRegion
    look: EditRegion | None = None

    @property
    def background(self) -> Tensor | None:
        """Background features of the source."""
        return self.source.background

    @property
    def device(self) -> torch.device:
        """Device of the source."""
        return self.source.device

    def sample(
        self,
        points: Tensor,  # [1, N, 3]
    ) -> FieldSamples:
        """Return features and all distances at world points."""
        samples = self._source_samples(points)
        share = self._share(points, samples.class_sdf)
        features, sdf, class_sdf = samples.features, samples.sdf, samples.class_sdf
        index = share[0, :, 0].nonzero().squeeze(1)
        if len(index) > 0:
            shape = self.shape_features(points[:, index], share[:, index])
            whole, classes = self.source.decoder.distances(shape)
            sdf = sdf.index_copy(1, index, whole)
            class_sdf = class_sdf.index_copy(1, index, classes)
        share = self.texture_share(points, samples.class_sdf, share)
        index = share[0, :, 0].nonzero().squeeze(1)
        if len(index) > 0:
            colors = self.colors(points[:, index], share[:, index])
            features = features.index_copy(1, index, colors)
        return FieldSamples(features=features, sdf=sdf, class_sdf=class_sdf)

    def sdf(
        self,
        points: Tensor,  # [1, N, 3]
    ) -> Tensor:  # [1, N, 1]
        """Return the distance of the whole head only."""
        features = self.source.shape_features(points)
        # Computed exactly as in the source's own field, so that not even rounding differs.
        sdf = self.source.decoder.sdf(features)
        share = self._share(points, self.source.decoder.class_distances(features))
        index = share[0, :, 0].nonzero().squeeze(1)
        if len(index) == 0:
            return sdf
        features = self.shape_features(points[:, index], share[:, index])
        return sdf.index_copy(1, index, self.source.decoder.sdf(features))

    @torch.no_grad()
    def shares(
        self,
        points: Tensor,  # [1, N, 3]
    ) -> tuple[Tensor, Tensor]:  # texture, shape [1, N, 1], 0 = source, 1 = edited
        """Return the shares of the copy's texture and of its shape at world points."""
        class_sdf = self.source.decoder.class_distances(self.source.shape_features(points))
        share = self.share_of(points, class_sdf)
        return self.texture_share(points, class_sdf, share), share

    @torch.no_grad()
    def share_of(
        self,
        points: Tensor,  # [1, N, 3]
        source_class_sdf: Tensor,  # [1, N, K]
    ) -> Tensor:  # [1, N, 1], 0 = source, 1 = edited
        """Return the share from known class distances; evaluates the copy only within reach."""
        index = reachable_points(self.region, points, source_class_sdf)[0].nonzero().squeeze(1)
        share = torch.zeros_like(points[..., :1])
        if len(index) == 0:
            return share
        part = points[:, index]
        return share.index_copy(1, index, self._share(part, source_class_sdf[:, index]))

    def texture_share(
        self,
        points: Tensor,  # [1, N, 3]
        source_class_sdf: Tensor,  # [1, N, K]
        share: Tensor,  # [1, N, 1]
    ) -> Tensor:  # [1, N, 1], 0 = source, 1 = edited
        """Return the share of the copy's texture from the share of its shape."""
        if self.look is None:
            return share
        return torch.maximum(share, self.look(points, source_class_sdf, source_class_sdf))

    def shape_features(
        self,
        points: Tensor,  # [1, M, 3]
        share: Tensor,  # [1, M, 1], above 0
    ) -> Tensor:  # [1, M, C]
        """Return fused shape features inside the region."""
        return self._fused(methodcaller("shape_features", points), share)

    def colors(
        self,
        points: Tensor,  # [1, M, 3]
        share: Tensor,  # [1, M, 1], above 0
    ) -> Tensor:  # [1, M, C]
        """Return fused colours inside the region."""
        features = self._fused(methodcaller("texture_features", points), share)
        return self.source.decoder.colors(features)

    def sdf_gradient(
        self,
        points: Tensor,  # [1, M, 3]
        share: Tensor,  # [1, M, 1], above 0
    ) -> Tensor:  # [1, M, 3]
        """Return the gradient of the distance inside the region, in closed form.

        It is differentiable with respect to the copy. The share is treated as constant, as in
        `sample`.
        """
        feature_gradient = self.source.decoder.sdf_gradient(self.shape_features(points, share))

        return self._fused(methodcaller("pull_back", feature_gradient, points), share)

    def density(
        self,
        sdf: Tensor,  # [...]
    ) -> Tensor:  # [...], per world unit
        """Turn distances into volume density with the source's decoder."""
        return self.source.density(sdf)

    def _source_samples(
        self,
        points: Tensor,  # [1, N, 3]
    ) -> FieldSamples:
        if not (points.requires_grad and torch.is_grad_enabled()):
            with torch.no_grad():
                return self.source.sample(points)
        # The source does not learn, so only the SDF's gradient at the points is needed. A linear
        # function with the same value and gradient replaces the graph.
        at = points.detach().requires_grad_(True)
        samples = self.source.sample(at)
        (gradient,) = torch.autograd.grad(samples.sdf, at, torch.ones_like(samples.sdf))
        offset = (gradient * (points - at.detach())).sum(dim=-1, keepdim=True)
        return FieldSamples(
            features=samples.features.detach(),
            sdf=samples.sdf.detach() + offset,
            class_sdf=samples.class_sdf.detach(),
        )

    @torch.no_grad()
    def _share(
        self,
        points: Tensor,  # [1, N, 3]
        source_class_sdf: Tensor,  # [1, N, K]
    ) -> Tensor:  # [1, N, 1]
        assert len(points) == 1, points.shape
        edited_class_sdf = self.edited.decoder.class_distances(self.edited.shape_features(points))
        return self.region(points, source_class_sdf, edited_class_sdf)

    def _fused(
        self,
        look_up: Callable[[TriPlaneField], Tensor],
        share: Tensor,  # [1, M, 1]
    ) -> Tensor:  # [1, M, C]
        edited = look_up(self.edited)
        if bool((share == 1).all()):
            return edited
        return torch.lerp(look_up(self.source), edited, share)


@dataclass(frozen=True)
class KnownPoints:
    """Values at points that a `FusedProbe` keeps between its calls.

    Args:
        source_distances: Source distances, first the whole head's, then those of the classes,
            [1, N, 1 + K].
        share: Share of the edited copy's shape, [1, N, 1].
        features: Fused shape features of the points whose share is above 0, [1, M, C].
    """

    source_distances: Tensor
    share: Tensor
    features: Tensor


@dataclass(frozen=True)
class FusedProbe(FieldProbe):
    """Probe of a fused field; evaluates the copy only where the source lets it be visible."""

    field: FusedField

    def begin(
        self,
        points: Tensor,  # [1, N, 3]
    ) -> tuple[Tensor, KnownPoints]:
        source = self.field.source
        with torch.no_grad():
            distances = torch.cat(source.decoder.distances(source.shape_features(points)), dim=-1)
        return self.begin_from(points, distances)

    def begin_from(
        self,
        points: Tensor,  # [1, N, 3]
        source_distances: Tensor,  # [1, N, 1 + K]
    ) -> tuple[Tensor, KnownPoints]:
        """Do the same from known source distances."""
        share = self.field.share_of(points, source_distances[..., 1:])
        index = share[0, :, 0].nonzero().squeeze(1)
        features = self.field.shape_features(points[:, index], share[:, index])
        sdf = source_distances[..., :1]
        if len(index) > 0:
            sdf = sdf.index_copy(1, index, self.field.source.decoder.sdf(features))
        return sdf, KnownPoints(source_distances, share, features)

    def finish(
        self,
        state: KnownPoints,
        points: Tensor,  # [1, N, 3]
        chosen: Tensor,  # [M]
        *,
        with_classes: bool,
    ) -> tuple[Tensor, Tensor]:
        source = self.field.source
        points, share, changed = self._chosen(state, points, chosen)
        colors = source.decoder.colors(source.texture_features(points))
        class_sdf = state.source_distances[:, chosen, 1:]
        texture_share = self.field.texture_share(points, class_sdf, share)
        recolored = texture_share[0, :, 0].nonzero().squeeze(1)
        if len(recolored) > 0:
            inside = self.field.colors(points[:, recolored], texture_share[:, recolored])
            colors = colors.index_copy(1, recolored, inside)
        if len(changed) > 0:
            rows = (state.share[0, :, 0] > 0).cumsum(0) - 1
            features = state.features[:, rows[chosen[changed]]]
            inside = source.decoder.class_distances(features)
            class_sdf = class_sdf.index_copy(1, changed, inside)
        return colors[0], class_sdf[0] if with_classes else class_sdf[0, :, :0]

    def sdf_gradient(
        self,
        state: KnownPoints,
        points: Tensor,  # [1, N, 3]
        chosen: Tensor,  # [M]
    ) -> Tensor:  # [M, 3]
        """See `FieldProbe`; differentiable with respect to the copy."""
        points, share, changed = self._chosen(state, points, chosen)
        gradient = field_gradient(self.field.source, points)
        if len(changed) > 0:
            inside = self.field.sdf_gradient(points[:, changed], share[:, changed])
            gradient = gradient.index_copy(1, changed, inside)
        return gradient[0]

    def _chosen(
        self, state: KnownPoints, points: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:  # [1, M, 3], [1, M, 1], [M'] where the copy shows
        share = state.share[:, chosen]
        return points[:, chosen], share, share[0, :, 0].nonzero().squeeze(1)
