"""Warm start losses at points and along rays: distances, labels, colours, opacity."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mate3d.generator import Generator
from mate3d.labels import LabelSet
from mate3d.procedural.portrait_field import PortraitField
from mate3d.procedural.portraits import sample_cameras
from mate3d.procedural.tracer import trace_rays
from mate3d.rendering.field import FieldSamples
from mate3d.rendering.rays import DepthDraws, sample_rays
from mate3d.rendering.renderer import composite_features, evaluate_rays, sample_depths
from mate3d.rendering.triplane import TriPlaneField
from training.settings import WarmStartSettings

# Distance errors are relative to the distance plus this length, to emphasise the surface.
_SURFACE_WIDTH = 0.02
# Classes are distinguished this close to the surface, by distance differences of this scale.
_LABEL_WIDTH = 0.005
# Every other class is a small part, near which more points are sampled.
_LARGE_CLASSES = ("background", "skin", "hair", "hat", "neck", "cloth")


@torch.no_grad()
def sample_training_points(
    portraits: PortraitField,
    small_classes: Sequence[int],
    ws: Tensor,  # [B, L, w_dim]
    num_points: int,
    reach: float,
) -> Tensor:  # [B, N, 3] in -reach..reach
    """Sample a quarter of the points uniformly, half near the surface, a quarter near small parts.

    Near points are selected from candidates by distance plus Gumbel noise.
    """
    num_quarter = num_points // 4
    candidates = (torch.rand(len(ws), 4 * num_points, 3, device=ws.device) * 2 - 1) * reach
    class_sdf = portraits.class_sdf(candidates)
    chosen = [candidates[:, :num_quarter]]
    for distances, count in (
        (class_sdf[..., 1:], 2 * num_quarter),
        (class_sdf[..., small_classes], num_quarter),
    ):
        nearness = -distances.amin(dim=-1).abs() / _SURFACE_WIDTH
        gumbel = -torch.empty_like(nearness).exponential_().log()
        index = (nearness + gumbel).topk(count, dim=1).indices
        chosen.append(candidates.gather(1, index.unsqueeze(-1).expand(-1, -1, 3)))
    return torch.cat(chosen, dim=1)


def small_classes(label_set: LabelSet) -> list[int]:
    """Return the ids of the classes that are small parts of a head."""
    return [i for i, name in enumerate(label_set.class_names) if name not in _LARGE_CLASSES]


def field_losses(
    generator: Generator,
    ws: Tensor,  # [B, L, w_dim]
    portraits: PortraitField,
    config: WarmStartSettings,
    *,
    with_rays: bool,
) -> dict[str, Tensor]:
    """Return losses of distances everywhere, and of labels and colours near the surface."""
    field = generator.make_field(ws, noise_mode="const")
    # Rays also cross space outside the planes, where features are zero; it must become empty.
    reach = 0.625 * generator.config.box_size
    small = small_classes(generator.label_set)
    points = sample_training_points(portraits, small, ws, config.num_points, reach)
    truth, predicted = portraits.sample(points), field.sample(points)
    losses = {}
    has_local_sdfs = generator.config.with_local_sdfs
    for name in ("sdf", "class_sdf") if has_local_sdfs else ("sdf",):
        target = getattr(truth, name)
        error = (getattr(predicted, name) - target).abs() / (target.abs() + _SURFACE_WIDTH)
        losses[name] = error.mean()
    nearness = torch.exp(-truth.sdf.abs() / _SURFACE_WIDTH)
    error = (predicted.features[..., :3] - truth.features).abs() * nearness
    losses["point_color"] = config.color_weight * error.mean() / nearness.mean()
    scale = _LABEL_WIDTH if has_local_sdfs else 1 / generator.config.rendering.semantic_sharpness
    losses["point_label"] = config.label_weight * label_loss(predicted, truth, scale)
    if with_rays:
        losses |= _ray_losses(generator, field, portraits, config)
    if field.background is not None:
        error = field.background[:, :3] - portraits.background
        losses["background"] = error.abs().mean()
    return losses


def label_loss(
    predicted: FieldSamples,
    truth: FieldSamples,
    scale: float = _LABEL_WIDTH,
) -> Tensor:  # scalar
    """Return the cross entropy of the nearest class, near the surface.

    Distance errors alone are too small to preserve thin parts such as the mouth.

    Args:
        scale: Softmax temperature on predicted distances, in world units.
    """
    num_classes = truth.class_sdf.shape[-1]
    is_close = (truth.sdf.abs() < 2 * _LABEL_WIDTH).float().flatten()
    labels = truth.class_sdf.argmin(dim=-1).flatten()
    share = torch.bincount(labels, is_close, minlength=num_classes) / is_close.sum().clamp(min=1)
    weight = is_close * class_weights(share)[labels]
    logits = -predicted.class_sdf.flatten(0, 1) / scale
    errors = nn.functional.cross_entropy(logits, labels, reduction="none")
    return (errors * weight).sum() / weight.sum().clamp(min=1)


def class_weights(
    share: Tensor,  # [...], fraction of pixels or points of each class
) -> Tensor:  # [...]
    """Return class weights, the inverse square root of each share, to balance small parts."""
    return (share + 1e-3).rsqrt()


def _ray_losses(
    generator: Generator,
    field: TriPlaneField,
    portraits: PortraitField,
    config: WarmStartSettings,
) -> dict[str, Tensor]:
    """Compare random rays of random views with traced ones."""
    num_heads = len(field.texture_planes)
    camera = sample_cameras(num_heads).to(field.texture_planes.device)
    origins, directions = sample_rays(camera, generator.config.resolution)
    chosen = torch.randperm(origins.shape[1])[: config.num_rays]
    origins, directions = origins[:, chosen], directions[:, chosen]
    truth = trace_rays(portraits, origins, directions)
    rendering = generator.config.rendering
    depths = sample_depths(field, origins, directions, rendering, DepthDraws(mode="random"))
    samples = evaluate_rays(field, origins, directions, depths, rendering)
    colors = composite_features(samples.features, samples.weights, rendering, field.background)
    opacity = samples.weights.sum(dim=2)
    hit = (truth.depth > 0).float().unsqueeze(-1)
    color_error = (colors[..., :3] - (truth.colors * 2 - 1)).abs().mean()
    return {
        "ray_color": config.ray_weight * 0.5 * color_error,
        "ray_opacity": config.ray_weight * (opacity - hit).abs().mean(),
    }
