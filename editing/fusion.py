"""Source and edited features joined by a region of points, decoded once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.regions import EditRegion, reachable_points
from mate3d.rendering.field import FieldProbe, FieldSamples, field_gradient
from mate3d.rendering.triplane import TriPlaneField, pull_back_to_points


@dataclass
class FusedField:
    """A field that is the source outside a region and the edited copy inside it.

    Features are mixed and decoded with the source's decoder, so an edit lives in the planes
    only. Outside the region the source's own samples are returned, bit for bit.

    Args:
        source: Field of the frozen generator; batch 1.
        edited: Field of the learnable copy; its decoder is asked for 3D labels only.
        region: Share of the edited copy at points; no gradient flows through it.
    """

    source: TriPlaneField
    edited: TriPlaneField
    region: EditRegion

    @property
    def background(self) -> Tensor | None:
        """Features behind everything: the source's."""
        return self.source.background

    @property
    def device(self) -> torch.device:
        """The source's."""
        return self.source.device

    def sample(
        self,
        points: Tensor,  # [1, N, 3]
    ) -> FieldSamples:
        """Return features and all distances at world points."""
        samples = self._source_samples(points)
        share = self._share(points, samples.class_sdf, self._edited_class_sdf(points))
        index = share[0, :, 0].nonzero().squeeze(1)
        if len(index) == 0:
            return samples
        part = points[:, index], share[:, index]
        fused = self.source.decode(
            self._fused(TriPlaneField.texture_features, *part),
            self._fused(TriPlaneField.shape_features, *part),
        )
        return FieldSamples(
            features=samples.features.index_copy(1, index, fused.features),
            sdf=samples.sdf.index_copy(1, index, fused.sdf),
            class_sdf=samples.class_sdf.index_copy(1, index, fused.class_sdf),
        )

    def sdf(
        self,
        points: Tensor,  # [1, N, 3]
    ) -> Tensor:  # [1, N, 1]
        """Return the global distance only."""
        features = self.source.shape_features(points)
        # Asked as the source's own field asks it, so that not even rounding differs.
        sdf = self.source.decoder.sdf(features)
        source_class_sdf = self.source.decoder.class_distances(features)
        share = self._share(points, source_class_sdf, self._edited_class_sdf(points))
        index = share[0, :, 0].nonzero().squeeze(1)
        if len(index) == 0:
            return sdf
        features = self.shape_features(points[:, index], share[:, index])
        return sdf.index_copy(1, index, self.source.decoder.sdf(features))

    def share(
        self,
        points: Tensor,  # [1, N, 3]
    ) -> Tensor:  # [1, N, 1], 0 = source, 1 = edited
        """Return the region's share of the edited copy at world points."""
        with torch.no_grad():
            source_class_sdf = self.source.decoder.class_distances(
                self.source.shape_features(points)
            )
        return self.share_of(points, source_class_sdf)

    @torch.no_grad()
    def share_of(
        self,
        points: Tensor,  # [1, N, 3]
        source_class_sdf: Tensor,  # [1, N, K]
    ) -> Tensor:  # [1, N, 1], 0 = source, 1 = edited
        """Return it where the source's class distances are known; asks the copy in reach only."""
        index = reachable_points(self.region, points, source_class_sdf)[0].nonzero().squeeze(1)
        share = torch.zeros_like(points[..., :1])
        if len(index) == 0:
            return share
        part = points[:, index]
        found = self._share(part, source_class_sdf[:, index], self._edited_class_sdf(part))
        return share.index_copy(1, index, found)

    def shape_features(
        self,
        points: Tensor,  # [1, M, 3]
        share: Tensor,  # [1, M, 1], above 0
    ) -> Tensor:  # [1, M, C]
        """Return features of distances inside the region."""
        return self._fused(TriPlaneField.shape_features, points, share)

    def colors(
        self,
        points: Tensor,  # [1, M, 3]
        share: Tensor,  # [1, M, 1], above 0
    ) -> Tensor:  # [1, M, C]
        """Return colour features inside the region."""
        features = self._fused(TriPlaneField.texture_features, points, share)
        return self.source.decoder.colors(features)

    def sdf_gradient(
        self,
        points: Tensor,  # [1, M, 3]
        share: Tensor,  # [1, M, 1], above 0
    ) -> Tensor:  # [1, M, 3]
        """Return the gradient of the distance inside the region, in closed form.

        It is differentiable for the copy. The region's edge counts as constant, as in `sample`.
        """
        feature_gradient = self.source.decoder.sdf_gradient(self.shape_features(points, share))

        def pull_back(field: TriPlaneField, points: Tensor) -> Tensor:
            return pull_back_to_points(
                feature_gradient, field.shape_planes, points, field.box_size, field.plane_layout
            )

        return self._fused(pull_back, points, share)

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
        # Nothing of the source learns, so of its derivatives only the SDF's gradient at the points
        # is needed, not the graph behind it: a linear function of equal value and gradient.
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
    def _edited_class_sdf(
        self,
        points: Tensor,  # [1, N, 3]
    ) -> Tensor:  # [1, N, K]
        return self.edited.decoder.class_distances(self.edited.shape_features(points))

    @torch.no_grad()
    def _share(
        self,
        points: Tensor,  # [1, N, 3]
        source_class_sdf: Tensor,  # [1, N, K]
        edited_class_sdf: Tensor,  # [1, N, K]
    ) -> Tensor:  # [1, N, 1]
        assert len(points) == 1, points.shape
        return self.region(points, source_class_sdf, edited_class_sdf)

    def _fused(
        self,
        look_up: Callable[[TriPlaneField, Tensor], Tensor],
        points: Tensor,  # [1, M, 3]
        share: Tensor,  # [1, M, 1]
    ) -> Tensor:  # [1, M, C]
        edited = look_up(self.edited, points)
        if bool((share == 1).all()):
            return edited
        return torch.lerp(look_up(self.source, points), edited, share)


@dataclass(frozen=True)
class KnownPoints:
    """What is known at points while a fused field is looked into.

    Args:
        source_distances: The source's, the whole head's before its parts', [1, N, 1 + K].
        share: Of the edited copy, [1, N, 1].
        features: Fused shape features of the points whose share is above 0, [1, M, C].
    """

    source_distances: Tensor
    share: Tensor
    features: Tensor


@dataclass(frozen=True)
class FusedProbe(FieldProbe):
    """Looks into a fused field: the copy is asked where the source says that it can show."""

    field: FusedField

    def begin(
        self,
        points: Tensor,  # [1, N, 3]
    ) -> tuple[Tensor, KnownPoints]:
        """See `FieldProbe`."""
        source = self.field.source
        with torch.no_grad():
            distances = torch.cat(source.decoder.distances(source.shape_features(points)), dim=-1)
        return self.begin_from(points, distances)

    def begin_from(
        self,
        points: Tensor,  # [1, N, 3]
        source_distances: Tensor,  # [1, N, 1 + K]
    ) -> tuple[Tensor, KnownPoints]:
        """Do the same where the source's distances are known."""
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
        """See `FieldProbe`."""
        source = self.field.source
        points, share, changed = self._chosen(state, points, chosen)
        colors = source.decoder.colors(source.texture_features(points))
        class_sdf = state.source_distances[:, chosen, 1:]
        if len(changed) > 0:
            inside = self.field.colors(points[:, changed], share[:, changed])
            colors = colors.index_copy(1, changed, inside)
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
        """See `FieldProbe`; differentiable for the copy."""
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
