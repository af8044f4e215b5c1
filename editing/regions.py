"""Regions of an edit: edited pixels in 2D, regions of points in 3D."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from editing.head_scale import HeadScale
from mate3d.cameras import unpack_camera
from mate3d.labels import LabelSet
from mate3d.options import NonNegativeFloat, Options

# Classes behind other parts: painting an ear over skin edits the ear.
SUPPORT_CLASSES = ("background", "skin")
RegionKind = Literal["classes", "everywhere"]
ShapeScope = Literal["repainted", "classes"]


def is_member(
    label_map: Tensor,  # [...] integer
    class_ids: Sequence[int],
) -> Tensor:  # [...] bool
    """Return where a label is one of `class_ids`."""
    return torch.isin(label_map, torch.tensor(class_ids, device=label_map.device))


@dataclass(frozen=True)
class PaintedView:
    """A view of the source in which the user painted a mask.

    Args:
        camera: Painted view, [1, 25].
        source_label_map: Rendered source mask, [1, H, W] int64.
        label_map: Painted mask, [1, H, W] int64; the source's if nothing was painted.
    """

    camera: Tensor
    source_label_map: Tensor
    label_map: Tensor

    def repainted(self, class_ids: Sequence[int]) -> Tensor:  # [1, 1, H, W] bool
        """Return the pixels whose label was changed from or to one of these classes."""
        before, after = self.source_label_map, self.label_map
        concerns_edit = is_member(before, class_ids) | is_member(after, class_ids)
        return ((before != after) & concerns_edit).unsqueeze(1)


def edit_mask(
    label_maps: Sequence[Tensor],  # each [B, H, W]
    class_ids: Sequence[int],
    dilation_pixels: int,
) -> Tensor:  # [B, 1, H, W] bool
    """Return the pixels that show an edited class in any of the label maps, dilated.

    Args:
        label_maps: Usually the source, the edited and the painted mask of one view.
        dilation_pixels: Radius of the square by which the pixels grow.
    """
    members = torch.stack([is_member(label_map, class_ids) for label_map in label_maps])
    mask, side = members.any(dim=0).unsqueeze(1).float(), 2 * dilation_pixels + 1
    return F.max_pool2d(mask, side, stride=1, padding=dilation_pixels) > 0


class EditRegion(Protocol):
    """A function from points and the class distances of both copies to the share of the edit.

    A region that the source bounds has a method `reachable`: where the share can be above 0,
    whatever the copy learns. The share at a point must not depend on other points then.
    """

    def __call__(
        self,
        points: Tensor,  # [1, N, 3]
        source_class_sdf: Tensor,  # [1, N, K]
        edited_class_sdf: Tensor,  # [1, N, K]
    ) -> Tensor:  # [1, N, 1], 0 = source, 1 = edited
        """Return the share of the edited copy's features at points."""


@dataclass(frozen=True)
class RegionOptions(Options):
    """Region of an edit: the points that take the edited copy's features.

    All lengths are shares of the head's size.

    Args:
        kind: classes fuses source and edited copy by the 3D labels of both; everywhere disables
            fusion.
        dilation: Width by which the edited classes grow; negative values shrink them. The published
            code uses 0.
        softness: Width of the ramp at the region's edge. The published code uses 0, or for hair a
            ramp on the grid of ray samples.
        reach: Maximum distance from the source's own edited classes, which keeps artifacts out of
            empty space. null sets no limit, as in the published code.
        with_painted_frustum: Also edit points that project to repainted pixels; the published code
            does not.
        painted_reach: Maximum distance of those points from the source's head; null sets no limit.
        shape_scope: Where shape may change. repainted are the classes and pixels that were
            repainted, so other edited parts keep their outline; classes are all edited classes, as
            in the paper.
        max_bounded_thickness: Thickness of surfaces, as a share of the head's size, above which the
            limits and the ramp are not used, because a cut through fog would show.
    """

    kind: RegionKind = "classes"
    dilation: float = 0.0
    softness: NonNegativeFloat = 0.02
    reach: NonNegativeFloat | None = 0.08
    with_painted_frustum: bool = True
    painted_reach: NonNegativeFloat | None = 0.4
    shape_scope: ShapeScope = "repainted"
    max_bounded_thickness: NonNegativeFloat = 0.15


def make_regions(
    options: RegionOptions,
    class_ids: Sequence[int],
    views: Sequence[PaintedView],
    scale: HeadScale,
    label_set: LabelSet,
) -> tuple[EditRegion, EditRegion | None]:
    """Return the region of an edit of some classes, and where only texture may change.

    Args:
        class_ids: Edited classes.
        scale: Lengths of the source head.
    """
    if options.kind == "everywhere":
        return everywhere, None
    dilation, softness, reach, painted_reach = map(
        scale.distance, (options.dilation, options.softness, options.reach, options.painted_reach)
    )
    if scale.thickness > options.max_bounded_thickness * scale.size:
        softness, reach, painted_reach = 0.0, None, None
    look = ClassRegion(tuple(class_ids), dilation, softness, reach)
    region = look
    if options.shape_scope == "repainted":
        repainted = set(repainted_classes(views, label_set)) & set(class_ids)
        region = ClassRegion(tuple(sorted(repainted)), dilation, softness, reach)
    if options.with_painted_frustum:
        for view in views:
            repainted = view.repainted(class_ids)
            if repainted.any():
                region = PaintedRegion(region, view.camera, repainted, painted_reach)
    return region, look if options.shape_scope == "repainted" else None


def repainted_classes(views: Sequence[PaintedView], label_set: LabelSet) -> tuple[int, ...]:
    """Return the classes that were painted into changed pixels.

    Where skin or background was painted, it is the class that was there before.
    """
    names = enumerate(label_set.class_names)
    support = [class_id for class_id, name in names if name in SUPPORT_CLASSES]
    found = set()
    for view in views:
        changed = view.source_label_map != view.label_map
        before, after = view.source_label_map[changed], view.label_map[changed]
        painted_or_erased = torch.where(is_member(after, support), before, after)
        parts = set(painted_or_erased.unique().tolist()) - set(support)
        # If only skin and background were exchanged, the head itself changes.
        found |= parts or set(torch.cat([before, after]).tolist()) - {0}
    return tuple(sorted(found))


def added_labels(views: Sequence[PaintedView]) -> tuple[int, ...]:
    """Return the labels that were painted into changed pixels."""
    added = [view.label_map[view.label_map != view.source_label_map] for view in views]
    return tuple(torch.cat(added).unique().tolist())


def reachable_points(
    region: EditRegion,
    points: Tensor,  # [1, N, 3]
    source_class_sdf: Tensor,  # [1, N, K]
) -> Tensor:  # [1, N] bool
    """Return where an edit can act at all; everywhere if the region has no bound."""
    if hasattr(region, "reachable"):
        return region.reachable(points, source_class_sdf)
    return torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)


def _is_within(
    source_class_sdf: Tensor,  # [1, N, C], of some classes
    reach: float | None,
) -> Tensor:  # [1, N, 1] bool
    """Return where at least one of these source classes is within `reach`."""
    if reach is None:
        return torch.ones_like(source_class_sdf[..., :1], dtype=torch.bool)
    return source_class_sdf.amin(dim=-1, keepdim=True) <= reach


@dataclass(frozen=True)
class ClassRegion:
    """Points that belong to an edited class in the source or in the edited volume.

    With the defaults of 0 this is the hard test of the published code. The distance to the border
    between two classes is half the difference of their SDFs, which gives a rim of known width.

    Args:
        class_ids: Edited classes; empty for an empty region.
        dilation: Width by which the region grows (shrinks if negative), in units of the distances.
        softness: Width of the linear ramp at the edge, in the same units; 0 is a hard edge.
        reach: Maximum distance from the source's edited classes, in the same units; None for no
            limit.
    """

    class_ids: tuple[int, ...]
    dilation: float = 0.0
    softness: float = 0.0
    reach: float | None = None

    def __call__(
        self,
        points: Tensor,  # [1, N, 3]
        source_class_sdf: Tensor,  # [1, N, K]
        edited_class_sdf: Tensor,  # [1, N, K]
    ) -> Tensor:  # [1, N, 1]
        """Return the share of the edited copy's features at points."""
        if not self.class_ids:
            return torch.zeros_like(points[..., :1])
        depth = torch.maximum(self._depth(source_class_sdf), self._depth(edited_class_sdf))
        depth = depth + self.dilation
        if self.softness > 0:
            share = (depth / self.softness + 0.5).clamp(0, 1)
        else:
            share = (depth > 0).to(points.dtype)
        return share * self.reachable(points, source_class_sdf).unsqueeze(-1)

    def reachable(
        self,
        points: Tensor,  # [1, N, 3]
        source_class_sdf: Tensor,  # [1, N, K]
    ) -> Tensor:  # [1, N] bool
        """Return where the source's edited classes are within reach."""
        if not self.class_ids:
            return torch.zeros_like(points[..., 0], dtype=torch.bool)
        return _is_within(source_class_sdf[..., list(self.class_ids)], self.reach).squeeze(-1)

    def _depth(
        self,
        class_sdf: Tensor,  # [1, N, K]
    ) -> Tensor:  # [1, N, 1], positive inside, world units
        others = [k for k in range(class_sdf.shape[-1]) if k not in self.class_ids]
        inside = class_sdf[..., list(self.class_ids)].amin(dim=-1, keepdim=True)
        return (class_sdf[..., others].amin(dim=-1, keepdim=True) - inside) / 2


@dataclass(frozen=True)
class PaintedRegion:
    """Points of another region, and all points that project to repainted pixels.

    This makes room for a class that is new or that grows over another.

    Args:
        inner: Region to extend.
        camera: Camera of the painted view, [1, 25].
        repainted: Pixels whose label was changed, [1, 1, H, W] bool.
        reach: Maximum distance from the source's head, in units of the distances; None for no
            limit.
    """

    inner: EditRegion
    camera: Tensor
    repainted: Tensor
    reach: float | None = None

    def __call__(
        self,
        points: Tensor,  # [1, N, 3]
        source_class_sdf: Tensor,  # [1, N, K]
        edited_class_sdf: Tensor,  # [1, N, K]
    ) -> Tensor:  # [1, N, 1]
        """Return the larger share of the inner region and of the painted frustum."""
        share = self.inner(points, source_class_sdf, edited_class_sdf)
        painted = self._painted_share(points) * _is_within(source_class_sdf, self.reach)
        return torch.maximum(share, painted)

    def reachable(
        self,
        points: Tensor,  # [1, N, 3]
        source_class_sdf: Tensor,  # [1, N, K]
    ) -> Tensor:  # [1, N] bool
        """Return where the inner region can be, and the painted frustum near the head."""
        is_near = _is_within(source_class_sdf, self.reach).squeeze(-1)
        is_painted = (self._painted_share(points) > 0).squeeze(-1) & is_near
        return is_painted | reachable_points(self.inner, points, source_class_sdf)

    def _painted_share(
        self,
        points: Tensor,  # [1, N, 3]
    ) -> Tensor:  # [1, N, 1]
        pixels = project_to_pixels(points, self.camera).unsqueeze(1) * 2 - 1
        painted = F.grid_sample(
            self.repainted.to(points.dtype), pixels, mode="bilinear", align_corners=False
        )
        # Rounding leaves traces of neighbouring pixels, which must not change the source.
        return (painted * (painted > 1e-3)).view(1, -1, 1)


def everywhere(
    points: Tensor,  # [1, N, 3]
    source_class_sdf: Tensor,  # [1, N, K]
    edited_class_sdf: Tensor,  # [1, N, K]
) -> Tensor:  # [1, N, 1]
    """Return 1 at all points, the region of an edit without fusion."""
    return torch.ones_like(points[..., :1])


def project_to_pixels(
    points: Tensor,  # [1, N, 3], world
    camera: Tensor,  # [1, 25]
) -> Tensor:  # [1, N, 2], horizontal and vertical over image size, 0..1 inside
    """Project points in front of the camera onto its image."""
    cam2world, intrinsics = unpack_camera(camera)
    in_camera = (points - cam2world[:, None, :3, 3]) @ cam2world[:, :3, :3]
    homogeneous = in_camera @ intrinsics.transpose(1, 2)
    return homogeneous[..., :2] / homogeneous[..., 2:]
