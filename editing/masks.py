"""Where an edit may act: painted masks and pixels in 2D, regions of points in 3D."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mate3d.cameras import unpack_camera
from mate3d.errors import UserError
from mate3d.labels import LabelSet, load_label_map

# Classes that other parts sit on or in front of. Painting an ear over skin edits the ear.
SUPPORT_CLASSES = ("background", "skin")


def load_painted_mask(
    path: str | Path,
    label_set: LabelSet,
    resolution: int,
) -> Tensor:  # [1, H, W] int64
    """Read a repainted mask.

    Raises:
        UserError: If the file is missing, is no palette or grey PNG of known label ids, or has
            not the generator's output size.
    """
    label_map = load_label_map(path, label_set)
    if label_map.shape != (resolution, resolution):
        height, width = label_map.shape
        raise UserError(
            f"mask {path} is {width} x {height}; use {resolution} x {resolution} pixels"
        )
    return torch.from_numpy(label_map.astype("int64")).unsqueeze(0)


def resolve_edit_classes(
    edit_classes: str | Sequence[str],
    source_label_map: Tensor,  # [1, H, W]
    painted_label_map: Tensor,  # [1, H, W]
    label_set: LabelSet,
) -> tuple[int, ...]:
    """Return the ids of the classes that an edit may change.

    Args:
        edit_classes: Class names, or "auto": what was painted in the changed pixels, or, where
            skin or background was painted, what had been there.
        source_label_map: Rendered mask that was handed out for painting.
        painted_label_map: The user's mask.
        label_set: Names of the ids.

    Raises:
        UserError: If a name is unknown, the list is empty, or "auto" finds nothing changed.
    """
    if isinstance(edit_classes, str) and edit_classes != "auto":
        raise UserError(f"edit_classes={edit_classes}; use auto or a list such as [ears,eyes]")
    if isinstance(edit_classes, str):
        class_ids = _repainted_classes(source_label_map, painted_label_map, label_set)
        if not class_ids:
            raise UserError("the mask equals the source mask; repaint it or list edit_classes")
        return class_ids
    if len(edit_classes) == 0:
        raise UserError("edit_classes=[] edits nothing; use auto or a list such as [ears,eyes]")
    return tuple(sorted({label_set.class_id(name) for name in edit_classes}))


def is_member(
    label_map: Tensor,  # [...] integer
    class_ids: Sequence[int],
) -> Tensor:  # [...] bool
    """Return where a label is one of `class_ids`."""
    return torch.isin(label_map, torch.tensor(class_ids, device=label_map.device))


def edit_mask(
    label_maps: Sequence[Tensor],  # each [B, H, W]
    class_ids: Sequence[int],
    dilation_pixels: int,
) -> Tensor:  # [B, 1, H, W] bool
    """Return the pixels that show an edited class in any of the label maps, dilated.

    Args:
        label_maps: Usually the source, the edited and the painted mask of one view.
        class_ids: Edited classes.
        dilation_pixels: Radius of the square by which the pixels grow.
    """
    members = torch.stack([is_member(label_map, class_ids) for label_map in label_maps])
    return dilate_mask(members.any(dim=0).unsqueeze(1), dilation_pixels)


def dilate_mask(
    mask: Tensor,  # [B, 1, H, W] bool
    radius: int,
) -> Tensor:  # [B, 1, H, W] bool
    """Grow a 2D mask by a square of side 2 * radius + 1."""
    return F.max_pool2d(mask.float(), 2 * radius + 1, stride=1, padding=radius) > 0


def dilate_volume(
    volume: Tensor,  # [B, H, W, S], 0..1
    size: int,
) -> Tensor:  # [B, H, W, S]
    """Dilate a region known on a grid of ray samples, as the release does (spec 10.2).

    The maximum over `size` neighbours is taken without padding and stretched back to the grid
    trilinearly, so the result is shifted and soft at its edges.
    """
    pooled = F.max_pool3d(volume.unsqueeze(1), size, stride=1)
    resized = F.interpolate(pooled, size=volume.shape[1:], mode="trilinear", align_corners=False)
    return resized.squeeze(1)


def erode_volume(
    volume: Tensor,  # [B, H, W, S], 0..1
    size: int,
) -> Tensor:  # [B, H, W, S]
    """Erode a region known on a grid of ray samples (spec 10.2)."""
    return 1 - dilate_volume(1 - volume, size)


def nearest_class(
    class_sdf: Tensor,  # [B, N, K]
) -> Tensor:  # [B, N] int64
    """Return the 3D label of points: the class with the highest score, so the least distance."""
    return class_sdf.argmin(dim=-1)


class EditRegion(Protocol):
    """A function from points, and what both copies say there, to the share of the edit."""

    def __call__(
        self,
        points: Tensor,  # [1, N, 3]
        source_class_sdf: Tensor,  # [1, N, K]
        edited_class_sdf: Tensor,  # [1, N, K]
    ) -> Tensor:  # [1, N, 1], 0 = source, 1 = edited
        """Return the share of the edited copy's features at points."""


@dataclass(frozen=True)
class ClassRegion:
    """Points that belong to an edited class in the source or in the edited volume.

    With the default zeros this is the release's hard test. The distance to the border between
    two classes is half the difference of their SDFs, which gives a rim of known width.

    Args:
        class_ids: Edited classes; empty for a region without points.
        dilation: Width by which the region grows (shrinks if negative), world units.
        softness: Width of the linear ramp at its edge, world units; 0 is a hard edge.
    """

    class_ids: tuple[int, ...]
    dilation: float = 0.0
    softness: float = 0.0

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
            return (depth / self.softness + 0.5).clamp(0, 1)
        return (depth > 0).to(points.dtype)

    def _depth(
        self,
        class_sdf: Tensor,  # [1, N, K]
    ) -> Tensor:  # [1, N, 1], positive inside, world units
        chosen = list(self.class_ids)
        others = [k for k in range(class_sdf.shape[-1]) if k not in self.class_ids]
        inside = class_sdf[..., chosen].amin(dim=-1, keepdim=True)
        return (class_sdf[..., others].amin(dim=-1, keepdim=True) - inside) / 2


@dataclass(frozen=True)
class PaintedRegion:
    """Points of another region, and all that project into repainted pixels.

    A class that the source does not have yet, or that grows over another, gets its room here.

    Args:
        inner: Region to extend.
        camera: Camera of the painted view, [1, 25].
        repainted: Pixels whose label was changed, [1, 1, H, W] bool.
    """

    inner: EditRegion
    camera: Tensor
    repainted: Tensor

    def __call__(
        self,
        points: Tensor,  # [1, N, 3]
        source_class_sdf: Tensor,  # [1, N, K]
        edited_class_sdf: Tensor,  # [1, N, K]
    ) -> Tensor:  # [1, N, 1]
        """Return the larger share of the inner region and of the painted frustum."""
        share = self.inner(points, source_class_sdf, edited_class_sdf)
        pixels = project_to_pixels(points, self.camera).unsqueeze(1) * 2 - 1
        painted = F.grid_sample(
            self.repainted.to(points.dtype), pixels, mode="nearest", align_corners=False
        )
        return torch.maximum(share, painted.view(1, -1, 1))


@dataclass(frozen=True)
class GridRegion:
    """The release's region: hard labels on a fixed grid of ray samples, optionally softened.

    It is a function of the samples' places in the grid, so it serves renders at given depths
    (of `grid` = h x w x S samples) only, and its edge depends on the view.

    Args:
        class_ids: Edited classes.
        grid: Rows, columns and samples of the render.
        keep_dilation: Size by which the kept, not the edited, part is dilated first.
        keep_erosion: Size by which the kept part is eroded after.
    """

    class_ids: tuple[int, ...]
    grid: tuple[int, int, int]
    keep_dilation: int = 1
    keep_erosion: int = 1

    def __call__(
        self,
        points: Tensor,  # [1, h * w * S, 3]
        source_class_sdf: Tensor,  # [1, h * w * S, K]
        edited_class_sdf: Tensor,  # [1, h * w * S, K]
    ) -> Tensor:  # [1, h * w * S, 1]
        """Return the share of the edited copy's features at the samples of the grid."""
        hard = ClassRegion(self.class_ids)(points, source_class_sdf, edited_class_sdf)
        keep = (1 - hard).view(1, *self.grid)
        keep = erode_volume(dilate_volume(keep, self.keep_dilation), self.keep_erosion)
        return 1 - keep.view(1, -1, 1)


def everywhere(
    points: Tensor,  # [1, N, 3]
    source_class_sdf: Tensor,  # [1, N, K]
    edited_class_sdf: Tensor,  # [1, N, K]
) -> Tensor:  # [1, N, 1]
    """Return 1 at all points: the region of an edit without fusion."""
    return torch.ones_like(points[..., :1])


def project_to_pixels(
    points: Tensor,  # [1, N, 3], world
    camera: Tensor,  # [1, 25]
) -> Tensor:  # [1, N, 2], horizontal and vertical over image size, 0..1 inside
    """Project points in front of the camera on its image."""
    cam2world, intrinsics = unpack_camera(camera)
    in_camera = (points - cam2world[:, None, :3, 3]) @ cam2world[:, :3, :3]
    homogeneous = in_camera @ intrinsics.transpose(1, 2)
    return homogeneous[..., :2] / homogeneous[..., 2:]


def _repainted_classes(
    source_label_map: Tensor,  # [1, H, W]
    painted_label_map: Tensor,  # [1, H, W]
    label_set: LabelSet,
) -> tuple[int, ...]:
    changed = source_label_map != painted_label_map
    before, after = source_label_map[changed], painted_label_map[changed]
    support = [
        class_id for class_id, name in enumerate(label_set.class_names) if name in SUPPORT_CLASSES
    ]
    edited = torch.where(is_member(after, support), before, after)
    classes = set(edited.unique().tolist())
    # Between skin and background there is no part; then the head itself is what changes.
    return tuple(sorted(classes - set(support) or classes - {0} or classes))
