"""Loss terms of an edit, and two measures of its quality: mask IoU and PSNR outside the region."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from editing.fusion import FusedField
from editing.head_scale import HeadScale
from editing.regions import PaintedView
from mate3d.rendering.field import eikonal_loss, sdf_consistency_loss
from mate3d.rendering.triplane import TriPlaneField

# Identical images have an infinite PSNR, which JSON cannot store.
MAX_PSNR_DB = 100.0
# Turns scores into logits: a score of 1 against -1 is almost certain.
_SHARPNESS = 5.0


def pixel_weights(
    painted_label_map: Tensor,  # [1, H, W] int64
    zone: Tensor,  # [1, 1, H, W] bool
    *,
    zone_weight: float,
    outside_weight: float,
    class_weights: Sequence[float],
) -> Tensor:  # [1, H, W], mean 1
    """Return the weight of each pixel in the mask loss.

    Args:
        zone: Pixels near the edited classes.
        class_weights: Factor for each painted class.
    """
    weights = torch.where(zone[:, 0], zone_weight, outside_weight)
    weights = weights * torch.tensor(class_weights, device=zone.device)[painted_label_map]
    return weights / weights.mean().clamp(min=1e-8)


def balanced_class_weights(
    painted_label_map: Tensor,  # [1, H, W] int64
    num_classes: int,
) -> list[float]:
    """Return weights of one over the square root of each class's area, so small parts count."""
    counts = torch.bincount(painted_label_map.flatten(), minlength=num_classes).float()
    shares = counts.clamp(min=1) / counts.sum()
    return shares.rsqrt().tolist()


def raw_mask_target(
    source_segmentation_raw: Tensor,  # [1, K, h, w]
    view: PaintedView,
) -> Tensor:  # [1, H, W] int64
    """Return what raw labels must become: the painted ones where repainted, the source's elsewhere.

    A generator's raw labels differ from its final ones, as small parts are larger. The painted
    mask would pull unchanged parts towards the final ones.
    """
    size = view.label_map.shape[-2:]
    raw = F.interpolate(source_segmentation_raw, size=size, mode="bilinear").argmax(dim=1)
    return torch.where(view.label_map == view.source_label_map, raw, view.label_map)


def mask_cross_entropy(
    segmentation: Tensor,  # [1, K, H, W], scores in about -1..1
    painted_label_map: Tensor,  # [1, H', W'] int64
    weights: Tensor,  # [1, H', W']
) -> Tensor:  # scalar
    """Return the weighted cross entropy of rendered scores against the painted labels.

    Args:
        segmentation: Rendered scores of all classes. If it is smaller than the mask, the mask is
            resized to it by nearest neighbour.
    """
    size = segmentation.shape[-2:]
    target = F.interpolate(painted_label_map.unsqueeze(1).float(), size=size)[:, 0].long()
    weights = F.interpolate(weights.unsqueeze(1), size=size)[:, 0]
    errors = F.cross_entropy(segmentation * _SHARPNESS, target, reduction="none")
    return (errors * weights).mean()


def other_labels_loss(
    segmentation: Tensor,  # [1, K, h, w], scores in about -1..1
    source_segmentation: Tensor,  # [1, K, h, w]
    added: Sequence[int],
) -> Tensor:  # scalar
    """Return how improbable it is that each pixel shows its source's label or an added one.

    It is -log of the sum of their probabilities, a sum over all pixels over the number of the
    source head's: a painted part may grow over others at any view, but nothing else may.

    Args:
        added: Labels that were painted into changed pixels.
    """
    log_probabilities = F.log_softmax(segmentation * _SHARPNESS, dim=1)
    source = source_segmentation.argmax(dim=1, keepdim=True)
    allowed = torch.zeros_like(segmentation, dtype=torch.bool).scatter(1, source, True)
    allowed[:, list(added)] = True
    errors = -log_probabilities.masked_fill(~allowed, -torch.inf).logsumexp(dim=1)
    return errors.sum() / (source != 0).sum().clamp(min=1)


def silhouette_cross_entropy(
    opacity: Tensor,  # [1, 1, h, w], 0..1
    painted_label_map: Tensor,  # [1, H, W] int64
    weights: Tensor,  # [1, H, W]
) -> Tensor:  # scalar
    """Return the cross entropy of head against background, for heads without class SDFs."""
    size = opacity.shape[-2:]
    target = F.interpolate((painted_label_map != 0).float().unsqueeze(1), size=size)
    weights = F.interpolate(weights.unsqueeze(1), size=size)
    errors = F.binary_cross_entropy(opacity.clamp(1e-4, 1 - 1e-4), target, reduction="none")
    return (errors * weights).mean()


def preservation_loss(
    image: Tensor,  # [1, 3, H, W]
    source_image: Tensor,  # [1, 3, H, W]
    edit_mask: Tensor,  # [1, 1, H, W] bool
) -> Tensor:  # scalar
    """Return the mean absolute difference over pixels outside the edit mask."""
    outside = (~edit_mask).to(image.dtype)
    return ((image - source_image).abs() * outside).mean()


def feature_preservation_loss(
    field: FusedField,
    points: Tensor,  # [1, N, 3]
    shares: tuple[Tensor, Tensor],  # of texture and shape, [1, N, 1]
) -> Tensor:  # scalar
    """Return the mean squared difference of plane features where the copy is not visible.

    Both planes count in units of their source's variance. Fusion hides these differences in the
    render, but they would change the copy's 3D labels and therefore the region.
    """
    terms = []
    for share, name in zip(shares, ("texture_features", "shape_features"), strict=True):
        outside = points[:, share[0, :, 0] == 0]
        if outside.numel():
            kept = getattr(field.source, name)(outside)
            error = (kept - getattr(field.edited, name)(outside)).square().mean()
            terms.append(error / kept.var().clamp(min=1e-12))
    return torch.stack(terms).sum() if terms else points.new_zeros(())


def geometry_losses(
    edited: TriPlaneField,
    points: Tensor,  # [1, N, 3], inside the region
    scale: HeadScale,
    *,
    with_eikonal: bool = True,
    with_consistency: bool = True,
) -> dict[str, Tensor]:  # eikonal, sdf_consistency: scalars
    """Return the eikonal term of the global SDF, and its difference from the union of the parts.

    Distances count in units of the source's slope, and in the consistency term of the head's size.
    That term is MSE(max(d, 0), min_k max(d_k, 0)). Gradients flow to both sides, so the head's
    surface follows the parts that the mask moves. Only requested terms are computed.
    """
    terms = {}
    if with_eikonal:
        gradients = edited.sdf_and_gradient(points)[1]
        terms["eikonal"] = eikonal_loss(gradients / scale.slope)
    if with_consistency:
        distances = edited.decoder.distances(edited.shape_features(points))
        unit = scale.size * scale.slope
        whole, parts = (values / unit for values in distances)
        terms["sdf_consistency"] = sdf_consistency_loss(whole, parts, with_detached_whole=False)
    return terms


def mask_iou(
    label_map: Tensor,  # [1, H, W]
    painted_label_map: Tensor,  # [1, H, W]
    class_id: int,
) -> float | None:
    """Return a class's intersection over union; None where neither mask has it."""
    rendered, painted = label_map == class_id, painted_label_map == class_id
    union = (rendered | painted).sum().item()
    return (rendered & painted).sum().item() / union if union else None


def psnr_outside(
    image: Tensor,  # [1, 3, H, W]
    source_image: Tensor,  # [1, 3, H, W]
    region: Tensor,  # [1, 1, H, W] bool
    *,
    value_range: float = 2.0,
) -> float:
    """Return the PSNR in dB over the pixels outside a region, at most `MAX_PSNR_DB`.

    Args:
        region: Pixels to leave out.
        value_range: Difference between white and black.
    """
    outside = (image - source_image).movedim(1, -1)[~region[:, 0]]
    error = outside.square().mean().item() if outside.numel() else 0.0
    if error == 0:
        return MAX_PSNR_DB
    return min(MAX_PSNR_DB, 10 * math.log10(value_range**2 / error))
