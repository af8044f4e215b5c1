"""Fields, functions from points to samples: their gradients, SDF losses, and probes.

A probe evaluates a field in two steps: SDF first, the rest only where it contributes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

# Points differentiated at a time when no gradients are recorded.
_CHUNK_POINTS = 65536


@dataclass
class FieldSamples:
    """Values of a field at points.

    Args:
        features: Colour features in about 0..1, [B, N, C]; the first three are RGB.
        sdf: Signed distance of the whole head in world units, [B, N, 1]; a pseudo distance in
            units of density if the geometry is a density.
        class_sdf: Signed distance of each label class, [B, N, K]; K is 0 without labels.
    """

    features: Tensor
    sdf: Tensor
    class_sdf: Tensor


class Field(Protocol):
    """Interface for the renderer, mesh extraction and geometry metrics."""

    @property
    def background(self) -> Tensor | None:
        """Features of the background, [B, C] in 0..1; None leaves it black."""

    @property
    def device(self) -> torch.device:
        """Device that points must be on."""

    def sample(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> FieldSamples:
        """Return features and all distances at world points."""

    def sdf(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, 1]
        """Return only the global distance, which is all that depth sampling needs."""

    def density(
        self,
        sdf: Tensor,  # [...]
    ) -> Tensor:  # [...], per world unit
        """Convert distances to volume density, or pseudo distances to raw density."""


@runtime_checkable
class AnalyticField(Protocol):
    """A field with a closed-form gradient of its distance; see `sdf_and_gradient`."""

    def sdf_and_gradient(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[Tensor, Tensor]:  # sdf [B, N, 1], gradient [B, N, 3]
        """Return the global distance and its gradient with respect to world points."""

    def sample_with_gradient(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[FieldSamples, Tensor]:  # and gradient [B, N, 3]
        """Return the result of `sample`, and the gradient of the global distance."""


@dataclass(frozen=True)
class WrappedField:
    """A field that delegates to another; subclasses override parts of it.

    Subclasses that override `sample` or `sdf` must also override the methods with gradient.
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


def sdf_and_gradient(
    field: Field,
    points: Tensor,  # [B, N, 3]
) -> tuple[Tensor, Tensor]:  # sdf [B, N, 1], gradient [B, N, 3]
    """Return a field's global distance and its gradient with respect to world points.

    Both are differentiable if gradients are enabled. Fields without a closed form use autograd.
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
    """Return the gradient of distances with respect to points: the outward normal direction.

    The result is differentiable if gradients are enabled.
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
    """Return the gradient of a distance at points, computed in chunks and detached."""

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
    """Return the gradient of a field's global distance, computed in chunks and detached."""
    parts = points.split(_CHUNK_POINTS, dim=1)
    return torch.cat([sdf_and_gradient(field, part)[1] for part in parts], dim=1)


def unit_normals(
    gradient: Tensor,  # [..., 3]
) -> Tensor:  # [..., 3]
    """Scale gradients to length 1; zero stays zero."""
    return nn.functional.normalize(gradient, dim=-1)


def eikonal_loss(
    gradients: Tensor,  # [..., 3], of an SDF with respect to world points
) -> Tensor:  # scalar
    """Return the mean of (|grad d| - 1)^2; undefined gradients count as zero (spec 8.3)."""
    squared = torch.nan_to_num(gradients, nan=0.0).square().sum(dim=-1)
    # The square root has no derivative at zero.
    return ((squared + 1e-12).sqrt() - 1).square().mean()


def sdf_consistency_loss(
    sdf: Tensor,  # [B, N, 1]
    class_sdf: Tensor,  # [B, N, K]
    *,
    with_detached_whole: bool = True,
) -> Tensor:  # scalar
    """Return the MSE between max(d, 0) and min_k max(d_k, 0).

    Outside the surface, the union of the parts must equal the whole.

    Args:
        with_detached_whole: Train only the parts, as released (`semantic_density_detach`).
    """
    whole = sdf.clamp(min=0)
    union = class_sdf.clamp(min=0).amin(dim=-1, keepdim=True)
    return nn.functional.mse_loss(union, whole.detach() if with_detached_whole else whole)


class FieldProbe(Protocol):
    """Evaluates a field's SDF and keeps intermediate results for the remaining values."""

    field: Field

    def begin(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[Tensor, Any]:  # sdf [B, N, 1], state for `finish`
        """Return the global distance at points."""

    def finish(
        self,
        state: Any,
        points: Tensor,  # [B, N, 3], as passed to `begin`
        chosen: Tensor,  # [M], ascending indices into the B * N points
        *,
        with_classes: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return colours [M, C] and class distances [M, K] at the chosen points.

        Without classes, K is 0.
        """

    def sdf_gradient(
        self,
        state: Any,
        points: Tensor,  # [B, N, 3], as passed to `begin`
        chosen: Tensor,  # [M], ascending indices into the B * N points
    ) -> Tensor:  # [M, 3]
        """Return the gradient of the global distance at the chosen points."""
        padded, is_chosen = pad_chosen(points, chosen)
        return field_gradient(self.field, padded)[is_chosen]


@singledispatch
def open_probe(field: Field) -> FieldProbe:
    """Return a probe for a field: a generic one, unless its type has registered another."""
    return AnyFieldProbe(field)


@dataclass(frozen=True)
class AnyFieldProbe(FieldProbe):
    """Generic probe: evaluates the SDF everywhere, then the whole field at the chosen points."""

    field: Field

    def begin(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[Tensor, None]:
        """See `FieldProbe`."""
        return self.field.sdf(points), None

    def finish(
        self,
        state: None,
        points: Tensor,  # [B, N, 3]
        chosen: Tensor,  # [M]
        *,
        with_classes: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `FieldProbe`."""
        padded, is_chosen = pad_chosen(points, chosen)
        values = self.field.sample(padded)
        class_sdf = values.class_sdf if with_classes else values.class_sdf[..., :0]
        return values.features[is_chosen], class_sdf[is_chosen]


def pad_chosen(
    points: Tensor,  # [B, N, 3]
    chosen: Tensor,  # [M]
) -> tuple[Tensor, Tensor]:  # [B, W, 3], [B, W]
    """Return each batch item's chosen points, padded to equal counts, and a validity mask."""
    num_batch, per_item = points.shape[:2]
    item = chosen.div(per_item, rounding_mode="floor")
    counts = item.bincount(minlength=num_batch)
    place = torch.arange(len(chosen), device=chosen.device) - (counts.cumsum(0) - counts)[item]
    width = max(int(counts.max()), 1)
    index = chosen.new_zeros(num_batch, width)
    index[item, place] = chosen % per_item
    is_chosen = torch.zeros_like(index, dtype=torch.bool)
    is_chosen[item, place] = True
    return points.gather(1, index[..., None].expand(-1, -1, 3)), is_chosen
