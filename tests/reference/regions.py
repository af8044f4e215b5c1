"""The release's regions of an edit, on the grid of ray samples."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from editing.regions import ClassRegion


def dilate_volume(
    volume: Tensor,  # [B, H, W, S], 0..1
    size: int,
) -> Tensor:  # [B, H, W, S]
    """Dilate without padding and stretch back: shifted, soft at its edges (spec 10.2)."""
    pooled = F.max_pool3d(volume.unsqueeze(1), size, stride=1)
    resized = F.interpolate(pooled, size=volume.shape[1:], mode="trilinear", align_corners=False)
    return resized.squeeze(1)


def erode_volume(
    volume: Tensor,  # [B, H, W, S], 0..1
    size: int,
) -> Tensor:  # [B, H, W, S]
    return 1 - dilate_volume(1 - volume, size)


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
