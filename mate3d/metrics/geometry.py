"""How close a field's SDF is to a true distance."""

import torch
from torch import Tensor

from mate3d.rendering.field import Field, eikonal_loss, sdf_and_gradient

# Candidates per point near the surface: the nearest eighth is used.
_CANDIDATES = 8


@torch.no_grad()
def eikonal_residual(
    field: Field,
    points: Tensor,  # [B, N, 3] world units, uniform in the box
) -> Tensor:  # [B]
    """Return each head's mean of (|grad d| - 1)^2, half near the surface, half in the whole box.

    An exact distance gives 0. The N / 8 points of each head with the smallest |d| sample the
    surface; its first N / 8 points sample the box.

    Args:
        field: Heads with signed distances.
        points: At least 8 per head.
    """
    count = points.shape[1] // _CANDIDATES
    assert count >= 1, points.shape
    nearest = field.sdf(points)[..., 0].abs().topk(count, dim=1, largest=False).indices
    near = points.gather(1, nearest[..., None].expand(-1, -1, 3))
    _, gradients = sdf_and_gradient(field, torch.cat([near, points[:, :count]], dim=1))
    return torch.stack([eikonal_loss(gradient) for gradient in gradients])
