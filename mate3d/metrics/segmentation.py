"""Agreement of label maps."""

import torch
from torch import Tensor


def class_iou(
    label_map: Tensor,  # [B, H, W] int64
    reference: Tensor,  # [B, H, W] int64
    num_classes: int,
) -> list[float]:
    """Return each class's intersection over union, over all pixels; 1 where neither has it."""
    pairs = reference.flatten() * num_classes + label_map.flatten()
    counts = torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)
    both = counts.diagonal()
    either = counts.sum(dim=0) + counts.sum(dim=1) - both
    return torch.where(either > 0, both / either.clamp(min=1), 1.0).tolist()
