"""Source and edited features joined by a region of points, decoded once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from editing.regions import EditRegion
from mate3d.field import FieldSamples, TriPlaneField


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
        fused = self.source.decode(*self._fused_features(points[:, index], share[:, index]))
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
        _, source_class_sdf = self.source.decoder.distances(features)
        share = self._share(points, source_class_sdf, self._edited_class_sdf(points))
        index = share[0, :, 0].nonzero().squeeze(1)
        _, shape_features = self._fused_features(points[:, index], share[:, index])
        return sdf.index_copy(1, index, self.source.decoder.sdf(shape_features))

    def share(
        self,
        points: Tensor,  # [1, N, 3]
    ) -> Tensor:  # [1, N, 1], 0 = source, 1 = edited
        """Return the region's share of the edited copy at world points."""
        with torch.no_grad():
            source_class_sdf = self.source.sample(points).class_sdf
        return self._share(points, source_class_sdf, self._edited_class_sdf(points))

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
        return self.edited.decoder.distances(self.edited.shape_features(points))[1]

    @torch.no_grad()
    def _share(
        self,
        points: Tensor,  # [1, N, 3]
        source_class_sdf: Tensor,  # [1, N, K]
        edited_class_sdf: Tensor,  # [1, N, K]
    ) -> Tensor:  # [1, N, 1]
        assert len(points) == 1, points.shape
        return self.region(points, source_class_sdf, edited_class_sdf)

    def _fused_features(
        self,
        points: Tensor,  # [1, M, 3]
        share: Tensor,  # [1, M, 1]
    ) -> tuple[Tensor, Tensor]:  # texture [1, M, C], shape [1, M, C]
        edited = self.edited.plane_features(points)
        if bool((share == 1).all()):
            return edited
        source = self.source.plane_features(points)
        texture, shape = map(torch.lerp, source, edited, (share, share))
        return texture, shape
