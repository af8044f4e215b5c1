"""Distributions of the distances of generated heads, for TensorBoard's histograms."""

import torch
from torch import Tensor

from mate3d.generator import Generator
from mate3d.rendering.field import sdf_and_gradient
from training.step_inputs import Latents

_NUM_HEADS = 4
_NUM_POINTS = 16384
# Share of the points that counts as near the surface.
_NEAR_SHARE = 1 / 16


@torch.no_grad()
def geometry_histograms(
    generator: Generator,
    latents: Latents,
) -> dict[str, Tensor]:  # name -> [M]
    """Return distances of the first four heads at points that are the same in every snapshot.

    Returns:
        `SDF/box`, the distance of the whole head at uniform points. At the sixteenth of them
        nearest the surface: `SDF/near_surface`, `SDF/gradient_length` (1 for a true distance) and
        `SDF_class/<name>`, the distance of each part. `SDF/beta`, unless geometry is a density.
    """
    config = generator.config
    z, camera = latents.z[:_NUM_HEADS], latents.camera[:_NUM_HEADS]
    field = generator.make_field(generator.map(z, camera))
    random = torch.Generator().manual_seed(0)
    uniform = torch.rand((len(z), _NUM_POINTS, 3), generator=random).to(z.device)
    points = (uniform - 0.5) * config.box_size
    sdf = field.sdf(points)
    nearest = sdf.abs().topk(round(_NEAR_SHARE * _NUM_POINTS), dim=1, largest=False).indices
    near = points.gather(1, nearest.expand(-1, -1, 3))
    near_sdf, gradient = sdf_and_gradient(field, near)
    histograms = {
        "SDF/box": sdf.flatten(),
        "SDF/near_surface": near_sdf.flatten(),
        "SDF/gradient_length": gradient.norm(dim=-1).flatten(),
    }
    class_sdf = field.sample(near).class_sdf
    for index, name in enumerate(generator.label_set.class_names):
        histograms[f"SDF_class/{name}"] = class_sdf[..., index].flatten()
    if config.geometry == "sdf":
        histograms["SDF/beta"] = generator.decoder.beta.detach().flatten()
    return histograms
