"""A field is a function from points to samples; planes with a decoder are one field."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mate3d.network.density_decoder import DensityDecoder
from mate3d.network.sdf_decoder import SDFDecoder
from mate3d.rendering.triplane import PlaneLayout, look_up_planes, pull_back_to_points

# Points differentiated at a time where nothing is recorded.
_CHUNK_POINTS = 65536


@dataclass
class FieldSamples:
    """What a field returns at points.

    Args:
        features: Colour features in about 0..1, the first three are RGB, [B, N, C].
        sdf: Signed distance of the whole head in world units, [B, N, 1]; a pseudo distance in
            units of density where geometry is a density.
        class_sdf: Signed distance of each label class, [B, N, K]; K is 0 without labels.
    """

    features: Tensor
    sdf: Tensor
    class_sdf: Tensor


class Field(Protocol):
    """Anything that the renderer, mesh extraction and geometry metrics can look into."""

    @property
    def background(self) -> Tensor | None:
        """Features behind everything, [B, C] in 0..1; None leaves what shines through black."""

    @property
    def device(self) -> torch.device:
        """Where points must be."""

    def sample(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> FieldSamples:
        """Return features and all distances at world points."""

    def sdf(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, 1]
        """Return the global distance only, which is all that depth sampling needs."""

    def density(
        self,
        sdf: Tensor,  # [...]
    ) -> Tensor:  # [...], per world unit
        """Turn distances into volume density, or pseudo distances into raw density."""


@runtime_checkable
class AnalyticField(Protocol):
    """A field that knows the gradient of its distance in closed form; see `sdf_and_gradient`."""

    def sdf_and_gradient(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[Tensor, Tensor]:  # sdf [B, N, 1], gradient [B, N, 3]
        """Return the global distance and its gradient with respect to world points."""

    def sample_with_gradient(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[FieldSamples, Tensor]:  # and gradient [B, N, 3]
        """Return what `sample` does, and the gradient of the global distance."""


@dataclass(frozen=True)
class WrappedField:
    """Another field as it is; subclasses change one thing about it.

    One that changes `sample` or `sdf` changes the methods with gradient as well.

    Args:
        field: Any field.
    """

    field: Field

    @property
    def background(self) -> Tensor | None:
        """See `Field`."""
        return self.field.background

    @property
    def device(self) -> torch.device:
        """See `Field`."""
        return self.field.device

    def sample(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> FieldSamples:
        """See `Field`."""
        return self.field.sample(points)

    def sdf(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, 1]
        """See `Field`."""
        return self.field.sdf(points)

    def density(
        self,
        sdf: Tensor,  # [...]
    ) -> Tensor:  # [...], per world unit
        """See `Field`."""
        return self.field.density(sdf)

    def sdf_and_gradient(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[Tensor, Tensor]:  # sdf [B, N, 1], gradient [B, N, 3]
        """See `AnalyticField`; another field's gradient comes from autograd."""
        return sdf_and_gradient(self.field, points)

    def sample_with_gradient(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[FieldSamples, Tensor]:  # and gradient [B, N, 3]
        """See `AnalyticField`; another field's gradient comes from autograd."""
        return sample_with_gradient(self.field, points)


@dataclass
class TriPlaneField:
    """Texture and shape planes read through a decoder.

    Args:
        decoder: Features to colour and distances, or to colour and density.
        texture_planes: [B, 3, C, P, P].
        shape_planes: [B, 3, C, P, P].
        box_size: Side of the cube that the planes span, in world units.
        plane_layout: Which axes each plane spans.
        background: Features behind everything, [B, C] in 0..1, or None.
    """

    decoder: SDFDecoder | DensityDecoder
    texture_planes: Tensor
    shape_planes: Tensor
    box_size: float
    plane_layout: PlaneLayout
    background: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """The planes'."""
        return self.shape_planes.device

    def plane_features(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[Tensor, Tensor]:  # texture [B, N, C], shape [B, N, C]
        """Return the mean over the three planes of texture and of shape features."""
        texture_features = self.texture_features(points)
        if self.shape_planes is self.texture_planes:
            return texture_features, texture_features
        return texture_features, self.shape_features(points)

    def texture_features(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, C]
        """Return the mean over the three planes of texture features."""
        return look_up_planes(self.texture_planes, points, self.box_size, self.plane_layout)

    def shape_features(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, C]
        """Return the mean over the three planes of shape features."""
        return look_up_planes(self.shape_planes, points, self.box_size, self.plane_layout)

    def decode(
        self,
        texture_features: Tensor,  # [B, N, C]
        shape_features: Tensor,  # [B, N, C]
    ) -> FieldSamples:
        """Decode looked-up features to colour and distances."""
        sdf, class_sdf = self.decoder.distances(shape_features)
        return FieldSamples(self.decoder.colors(texture_features), sdf, class_sdf)

    def sample(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> FieldSamples:
        """Return features and all distances at world points."""
        return self.decode(*self.plane_features(points))

    def sdf(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, 1]
        """Return the global distance only."""
        return self.decoder.sdf(self.shape_features(points))

    def density(
        self,
        sdf: Tensor,  # [...]
    ) -> Tensor:  # [...], per world unit
        """Turn distances into volume density with the decoder's beta."""
        return self.decoder.density(sdf)

    def sdf_and_gradient(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[Tensor, Tensor]:  # sdf [B, N, 1], gradient [B, N, 3]
        """See `AnalyticField`."""
        features = self.shape_features(points)
        return self.decoder.sdf(features), self._gradient_at(points, features)

    def sample_with_gradient(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[FieldSamples, Tensor]:  # and gradient [B, N, 3]
        """See `AnalyticField`."""
        texture_features, shape_features = self.plane_features(points)
        gradient = self._gradient_at(points, shape_features)
        return self.decode(texture_features, shape_features), gradient

    def _gradient_at(
        self,
        points: Tensor,  # [B, N, 3]
        shape_features: Tensor,  # [B, N, C], looked up there
    ) -> Tensor:  # [B, N, 3]
        return pull_back_to_points(
            self.decoder.sdf_gradient(shape_features),
            self.shape_planes,
            points,
            self.box_size,
            self.plane_layout,
        )


def without_classes(field: TriPlaneField) -> TriPlaneField:
    """Return a field whose parts are not evaluated: its samples have no class distances."""
    return replace(field, decoder=_ClasslessDecoder(field.decoder))


@dataclass(frozen=True)
class _ClasslessDecoder:
    """A decoder of colours and of the whole head's distance."""

    decoder: SDFDecoder | DensityDecoder

    def __getattr__(self, name: str) -> Any:
        if name == "decoder":  # Not set yet: copies are made without calling `__init__`.
            raise AttributeError(name)
        return getattr(self.decoder, name)

    def distances(
        self,
        shape_features: Tensor,  # [B, N, C]
    ) -> tuple[Tensor, Tensor]:  # sdf [B, N, 1], class_sdf [B, N, 0]
        """Return the global distance only."""
        sdf = self.decoder.sdf(shape_features)
        return sdf, sdf[..., :0]


def sdf_and_gradient(
    field: Field,
    points: Tensor,  # [B, N, 3]
) -> tuple[Tensor, Tensor]:  # sdf [B, N, 1], gradient [B, N, 3]
    """Return a field's global distance and its gradient with respect to world points.

    Both are differentiable where gradients are being recorded. Fields without a closed form go
    through autograd.
    """
    if isinstance(field, AnalyticField):
        return field.sdf_and_gradient(points)
    with torch.enable_grad():
        points = points.detach().requires_grad_(True)
        sdf = field.sdf(points)
    return sdf, sdf_gradient(sdf, points)


def sample_with_gradient(
    field: Field,
    points: Tensor,  # [B, N, 3]
) -> tuple[FieldSamples, Tensor]:  # and gradient [B, N, 3]
    """Return a field's samples, and the gradient of its global distance; see `sdf_and_gradient`."""
    if isinstance(field, AnalyticField):
        return field.sample_with_gradient(points)
    with torch.enable_grad():
        points = points.detach().requires_grad_(True)
        samples = field.sample(points)
    return samples, sdf_gradient(samples.sdf, points)


def sdf_gradient(
    sdf: Tensor,  # [B, N, 1]
    points: Tensor,  # [B, N, 3], requires grad
) -> Tensor:  # [B, N, 3]
    """Return the gradient of distances with respect to points; the outward normal direction.

    The result stays differentiable when gradients are being recorded.
    """
    (gradient,) = torch.autograd.grad(
        sdf,
        points,
        grad_outputs=torch.ones_like(sdf),
        create_graph=torch.is_grad_enabled(),
        retain_graph=True,
    )
    return gradient.nan_to_num(0.0)


def spatial_gradient(
    distance: Callable[[Tensor], Tensor],  # [B, N, 3] -> [B, N, 1]
    points: Tensor,  # [B, N, 3]
) -> Tensor:  # [B, N, 3]
    """Return the gradient of a distance at points, found piece by piece and not recorded."""

    def gradient_at(part: Tensor) -> Tensor:
        with torch.enable_grad():
            part = part.detach().requires_grad_(True)
            sdf = distance(part)
        with torch.no_grad():
            return sdf_gradient(sdf, part)

    return torch.cat([gradient_at(part) for part in points.split(_CHUNK_POINTS, dim=1)], dim=1)


@torch.no_grad()
def field_gradient(
    field: Field,
    points: Tensor,  # [B, N, 3]
) -> Tensor:  # [B, N, 3]
    """Return the gradient of a field's global distance, found piece by piece and not recorded."""
    parts = points.split(_CHUNK_POINTS, dim=1)
    return torch.cat([sdf_and_gradient(field, part)[1] for part in parts], dim=1)


def unit_normals(
    gradient: Tensor,  # [..., 3]
) -> Tensor:  # [..., 3]
    """Scale gradients to length 1; zero stays zero."""
    return nn.functional.normalize(gradient, dim=-1)
