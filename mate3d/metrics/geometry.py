"""How well a field's distance is a distance."""

import torch
from torch import Tensor

from mate3d.rendering.field import Field, eikonal_loss, sdf_and_gradient

# Candidates for each point near the surface: the nearest eighth is taken.
_CANDIDATES = 8


@torch.no_grad()
def eikonal_residual(
    field: Field,
    points: Tensor,  # [B, N, 3] world units, uniform in the box
) -> Tensor:  # [B]
    """Return each head's mean of (|grad d| - 1)^2, half of it near the surface, half anywhere.

    0 is an exact distance. The N / 8 points of each head with the smallest |d| stand for the
    surface, the first N / 8 for the box.

    Args:
        field: Heads with signed distances.
        points: At least 8 a head.
    """
    count = points.shape[1] // _CANDIDATES
    assert count >= 1, points.shape
    nearest = field.sdf(points)[..., 0].abs().topk(count, dim=1, largest=False).indices
    near = points.gather(1, nearest[..., None].expand(-1, -1, 3))
    _, gradients = sdf_and_gradient(field, torch.cat([near, points[:, :count]], dim=1))
    return torch.stack([eikonal_loss(gradient) for gradient in gradients])
