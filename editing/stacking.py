"""Edits on top of each other: what each added to the planes, and the field of the whole stack."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.regions import EditRegion, reachable_points
from mate3d.rendering.field import FieldProbe, open_probe
from mate3d.rendering.triplane import TriPlaneField, look_up_planes, pull_back_to_points

_LEVELS = 127


@dataclass(frozen=True)
class PlaneChange:
    """What an edit added to three planes: 8-bit values of the texels that it reached.

    Args:
        texels: Reached texels, [3, P, P] bool.
        values: Their values in steps of `scale`, [T, C] int8.
        scale: Step of each channel, [C].
    """

    texels: Tensor
    values: Tensor
    scale: Tensor

    @staticmethod
    def between(
        source: Tensor,  # [1, 3, C, P, P]
        edited: Tensor,  # [1, 3, C, P, P]
        within: Tensor | None = None,  # [3, P, P] bool
    ) -> "PlaneChange | None":
        """Return the difference of two planes, rounded; None if there is none."""
        offset = (edited - source)[0].movedim(1, -1)
        texels = (offset != 0).any(dim=-1)
        if within is not None:
            texels &= within
        if not texels.any():
            return None
        values = offset[texels]
        scale = (values.abs().amax(dim=0) / _LEVELS).clamp(min=torch.finfo(values.dtype).tiny)
        return PlaneChange(texels, (values / scale).round().to(torch.int8), scale)

    def planes(self, strength: float = 1.0) -> Tensor:  # [1, 3, C, P, P]
        """Return the offsets of whole planes."""
        planes = self.scale.new_zeros(*self.texels.shape, len(self.scale))
        planes[self.texels] = self.values * (self.scale * strength)
        return planes.movedim(-1, 1).unsqueeze(0).contiguous()


@dataclass(frozen=True)
class Layer:
    """One edit of a stack.

    Args:
        offsets: Added to the texture and the shape planes, [1, 3, C, P, P]; None adds nothing.
        region: Where shape and texture change.
        look: Further points where texture changes; None for no such points.
    """

    offsets: tuple[Tensor | None, Tensor | None]
    region: EditRegion
    look: EditRegion | None


class Stack:
    """Edits on top of a head.

    Look-ups in planes are linear. So an edit that mixes features of a source and its copy adds the
    share of the copy times the look-up of its offset, and edits in a row are a sum. Each share
    depends on the head below.

    Args:
        base: The head below all edits; batch 1.
        layers: The edits, the first one first.
    """

    def __init__(self, base: TriPlaneField, layers: Sequence[Layer]):
        self.base, self.layers = base, tuple(layers)
        self._known: tuple[Tensor, list] | None = None

    def add(
        self,
        kind: int,  # 0 texture, 1 shape
        values: Tensor,  # [1, N, C]
        points: Tensor,  # [1, N, 3]
        look_up: Callable[[Tensor, Tensor, Tensor], Tensor],  # planes, points, index -> [1, M, C]
    ) -> Tensor:  # [1, N, C]
        """Add the look-ups of all layers, each times its share, which is treated as constant."""
        for layer, (index, *shares) in zip(self.layers, self._shares(points), strict=True):
            planes, share = layer.offsets[kind], shares[kind]
            if planes is not None and len(index) > 0:
                added = share * look_up(planes, points[:, index], index)
                values = values.index_add(1, index, added)
        return values

    @torch.no_grad()
    def _shares(self, points: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return each layer's points that it can reach, and its shares of texture and shape."""
        # Texture, shape and gradients are looked up at the same points, one after the other.
        if self._known is not None and self._known[0] is points:
            return self._known[1]
        base, found = self.base, []
        features = TriPlaneField.shape_features(base, points)
        distances = base.decoder.class_distances(features)
        for layer in self.layers:
            is_reached = reachable_points(layer.region, points, distances)
            if layer.look is not None:
                is_reached = is_reached | reachable_points(layer.look, points, distances)
            index = is_reached[0].nonzero().squeeze(1)
            part, before = points[:, index], distances[:, index]
            shape = texture = part[..., :1]
            if len(index) > 0:
                change = torch.zeros_like(features[:, index])
                if layer.offsets[1] is not None:
                    change = look_up_planes(
                        layer.offsets[1], part, base.box_size, base.plane_layout
                    )
                after = base.decoder.class_distances(features[:, index] + change)
                shape = texture = layer.region(part, before, after)
                if layer.look is not None:
                    texture = torch.maximum(shape, layer.look(part, before, before))
                features = features.index_add(1, index, shape * change)
                mixed = base.decoder.class_distances(features[:, index])
                distances = distances.index_copy(1, index, mixed)
            found.append((index, texture, shape))
        self._known = points, found
        return found


@dataclass
class StackedField(TriPlaneField):
    """Planes with a stack of edits on top, a field like any other; batch 1."""

    stack: Stack | None = None

    def plane_features(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.texture_features(points), self.shape_features(points)

    def texture_features(self, points: Tensor) -> Tensor:
        return self._add(0, super().texture_features(points), points)

    def shape_features(self, points: Tensor) -> Tensor:
        return self._add(1, super().shape_features(points), points)

    def pull_back(self, grad_features: Tensor, points: Tensor) -> Tensor:
        def look_up(planes: Tensor, part: Tensor, index: Tensor) -> Tensor:
            place = self.box_size, self.plane_layout
            return pull_back_to_points(grad_features[:, index], planes, part, *place)

        return self.stack.add(1, super().pull_back(grad_features, points), points, look_up)

    def _add(self, kind: int, values: Tensor, points: Tensor) -> Tensor:
        def look_up(planes: Tensor, part: Tensor, _: Tensor) -> Tensor:
            return look_up_planes(planes, part, self.box_size, self.plane_layout)

        return self.stack.add(kind, values, points, look_up)


def stacked(field: TriPlaneField, stack: Stack) -> TriPlaneField:
    """Return a field with the edits of a stack on top."""
    values = {name: getattr(field, name) for name in TriPlaneField.__dataclass_fields__}
    return StackedField(**values, stack=stack)


@dataclass(frozen=True)
class StackedProbe(FieldProbe):
    """Looks up shape features once per point, and texture features only where they contribute."""

    field: StackedField

    def begin(self, points: Tensor) -> tuple[Tensor, Tensor]:
        features = self.field.shape_features(points)
        return self.field.decoder.sdf(features), features[0]

    def finish(
        self, state: Tensor, points: Tensor, chosen: Tensor, *, with_classes: bool
    ) -> tuple[Tensor, Tensor]:
        colors = self.field.decoder.colors(self.field.texture_features(points[:, chosen]))[0]
        if not with_classes:
            return colors, colors.new_empty(len(colors), 0)
        return colors, self.field.decoder.class_distances(state[chosen])

    def class_distances(self, state: Tensor) -> Tensor:  # [N, K]
        """Return the class distances at all points passed to `begin`."""
        return self.field.decoder.class_distances(state)


@open_probe.register
def _(field: StackedField) -> FieldProbe:
    return StackedProbe(field)


@torch.no_grad()
def reached_texels(
    field: TriPlaneField, regions: Sequence[EditRegion | None]
) -> Tensor:  # [3, P, P] bool
    """Return the texels that some of the regions can reach, with a rim of a texel."""
    side = field.shape_planes.shape[-1]
    axis = (torch.arange(side, device=field.device) + 0.5) / side * 2 - 1
    marks = []
    for z in axis:
        x, y = torch.meshgrid(axis, axis, indexing="xy")
        points = torch.stack([x, y, z.expand_as(x)], -1).view(1, -1, 3) * (field.box_size / 2)
        distances = field.decoder.class_distances(field.shape_features(points))
        found = [reachable_points(one, points, distances) for one in regions if one is not None]
        marks.append(points[:, torch.stack(found).any(dim=0)[0]])
    points = torch.cat(marks, dim=1).requires_grad_(False)
    with torch.enable_grad():
        # The texels that a look-up reads are those that its gradient reaches.
        planes = torch.zeros_like(field.shape_planes[:, :, :1]).requires_grad_(True)
        look_up_planes(planes, points, field.box_size, field.plane_layout).sum().backward()
    touched = torch.nn.functional.max_pool2d(planes.grad[0], 3, stride=1, padding=1)
    return touched[:, 0] > 0
