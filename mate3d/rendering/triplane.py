"""Project points on three axis-aligned planes and look features up."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from torch_utils.ops.triplane_sample import triplane_sample, triplane_sample_points_gradient

PlaneLayout = Literal["xy_xz_yz", "xy_xz_zy", "eg3d_legacy"]

# Each plane's (horizontal, vertical) axes. The lineage's third plane repeats the xz axes
# transposed, so no plane sees y and z together; weights trained that way depend on it (spec 6.1).
# Published weights trained after that slip was corrected have the third plane of ours transposed.
PLANE_AXES: dict[str, tuple[tuple[int, int], ...]] = {
    "xy_xz_yz": ((0, 1), (0, 2), (1, 2)),
    "xy_xz_zy": ((0, 1), (0, 2), (2, 1)),
    "eg3d_legacy": ((0, 1), (0, 2), (2, 0)),
}


def project_points(
    points: Tensor,  # [B, N, 3] in box units, -1..1 inside
    plane_layout: PlaneLayout,
) -> Tensor:  # [B, 3, N, 2], (horizontal, vertical) on each plane
    """Return the coordinates of points on the three planes."""
    return torch.stack([points[..., list(axes)] for axes in PLANE_AXES[plane_layout]], dim=1)


def look_up_planes(
    planes: Tensor,  # [B, 3, C, P, P]
    points: Tensor,  # [B, N, 3], world
    box_size: float,
    plane_layout: PlaneLayout,
) -> Tensor:  # [B, N, C]
    """Return the mean of the bilinear look-ups in three planes; zero outside the box."""
    return triplane_sample(planes, project_points(points * (2 / box_size), plane_layout))


def pull_back_to_points(
    grad_features: Tensor,  # [B, N, C]
    planes: Tensor,  # [B, 3, C, P, P]
    points: Tensor,  # [B, N, 3], world
    box_size: float,
    plane_layout: PlaneLayout,
) -> Tensor:  # [B, N, 3]
    """Return the gradient at points, given that at the features which `look_up_planes` returns.

    It is the transposed Jacobian of the look-up times `grad_features`, in closed form, and
    differentiable once more with respect to all tensors.
    """
    scale = 2 / box_size
    plane_points = project_points(points * scale, plane_layout)
    gradient = triplane_sample_points_gradient(grad_features, planes, plane_points)
    axes = PLANE_AXES[plane_layout]
    along = [
        sum(
            gradient[:, plane, :, side]
            for plane in range(3)
            for side in range(2)
            if axes[plane][side] == axis
        )
        for axis in range(3)
    ]
    return torch.stack(along, dim=-1) * scale


def find_plane_layout(axes: Sequence[tuple[int, int]]) -> PlaneLayout | None:
    """Return the layout whose planes have these (horizontal, vertical) axes, or None."""
    for layout, known in PLANE_AXES.items():
        if tuple(axes) == known:
            return layout
    return None
