"""Agreement of label maps."""

import torch
from torch import Tensor


def confusion_matrix(
    label_map: Tensor,  # [B, H, W] int64
    reference: Tensor,  # [B, H, W] int64
    num_classes: int,
) -> Tensor:  # [K, K] int64: pixels of class (reference, label_map)
    """Count the pixels of each pair of classes; counts of several batches can be added."""
    pairs = reference.flatten() * num_classes + label_map.flatten()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def iou_of_counts(
    counts: Tensor,  # [K, K], from `confusion_matrix`
) -> Tensor:  # [K]; NaN for classes absent from both
    """Return each class's intersection over union."""
    both = counts.diagonal()
    either = counts.sum(dim=0) + counts.sum(dim=1) - both
    return torch.where(either > 0, both / either.clamp(min=1), torch.nan)


def mean_iou(
    counts: Tensor,  # [K, K], from `confusion_matrix`
) -> float:
    """Return the mean IoU of the classes that occur; NaN if no pixel was counted."""
    return float(iou_of_counts(counts).nanmean())
