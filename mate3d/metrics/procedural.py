"""Comparison of a generator with the exact procedural cats of its latents."""

import torch
from torch import Tensor

from mate3d.generator import Generator
from mate3d.labels import segmentation_to_label_map
from mate3d.metrics.segmentation import confusion_matrix, iou_of_counts
from mate3d.procedural.portrait_field import PortraitField
from mate3d.procedural.portraits import CAT, sample_cameras
from mate3d.procedural.tracer import render_analytic
from mate3d.rendering.triplane import TriPlaneField
from torch_utils.stages import stage

_BATCH = 4
# The SDF is measured at points this close to the true surface.
_SHELL = 0.03


@torch.no_grad()
def measure_against_truth(generator: Generator, num_heads: int, seed: int = 0) -> dict[str, float]:
    """Compare random heads, from random cameras, with their analytic counterparts.

    Args:
        generator: Trained with the procedural warm start.
        num_heads: Number of heads, one view each.
        seed: Seed of latents, cameras and points.

    Returns:
        psnr_db: PSNR of final images.
        iou_<class>, mean_iou: IoU of final segmentations, over all pixels of all views.
        opacity_iou: IoU of raw opacity above 1/2 and the traced silhouette.
        sdf_error: Mean absolute error of the global SDF within 0.03 of the surface, in world
            units.
    """
    random = torch.Generator().manual_seed(seed)
    device = generator.mapping.w_avg.device
    z = torch.randn(num_heads, generator.config.z_dim, generator=random).to(device)
    camera = sample_cameras(num_heads, random).to(device)
    squared, label_maps, silhouettes, distances = [], [], [], []
    with stage(f"Measuring {num_heads} heads", num_heads) as bar:
        for zs, cameras in zip(z.split(_BATCH), camera.split(_BATCH), strict=True):
            cats = CAT.field(CAT.parameters_from_direction(zs))
            truth = render_analytic(cats, cameras, generator.config.resolution)
            ws = generator.map(zs, cameras)
            field = generator.make_field(ws, exact=False)
            view = generator.render(field, ws, cameras, exact=False)
            error = (view.image.clamp(-1, 1) - truth.image) / 2
            squared.append(error.square().mean(dim=(1, 2, 3)))
            label_maps.append((segmentation_to_label_map(view.segmentation), truth.label_map))
            side = view.opacity.shape[-1]
            raw_truth = torch.nn.functional.adaptive_avg_pool2d(truth.opacity, side)
            silhouettes.append((view.opacity > 0.5, raw_truth > 0.5))
            distances.append(_distance_errors(field, cats, len(zs), generator, random))
            bar.update(len(zs))
    opaque, solid = map(torch.cat, zip(*silhouettes, strict=True))
    return {
        "psnr_db": (-10 * torch.cat(squared).mean().log10()).item(),
        **_label_scores(label_maps, generator),
        "opacity_iou": ((opaque & solid).sum() / (opaque | solid).sum()).item(),
        "sdf_error": torch.cat(distances).mean().item(),
    }


def _label_scores(
    label_maps: list[tuple[Tensor, Tensor]], generator: Generator
) -> dict[str, float]:
    rendered, true = map(torch.cat, zip(*label_maps, strict=True))
    names = generator.label_set.class_names
    counts = confusion_matrix(rendered, true, len(names))
    # A class absent from both counts as a match.
    ious = iou_of_counts(counts).nan_to_num(nan=1.0).tolist()
    scores = {f"iou_{name}": value for name, value in zip(names, ious, strict=True)}
    return scores | {"mean_iou": sum(ious) / len(ious)}


def _distance_errors(
    field: TriPlaneField,
    cats: PortraitField,
    num_heads: int,
    generator: Generator,
    random: torch.Generator,
) -> Tensor:  # [M]
    points = torch.rand(num_heads, 16384, 3, generator=random) - 0.5
    points = (points * generator.config.box_size).to(generator.mapping.w_avg.device)
    true = cats.sdf(points)
    return (field.sdf(points) - true).abs()[true.abs() < _SHELL]
