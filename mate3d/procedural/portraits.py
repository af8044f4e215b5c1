"""Complete procedural portraits: latent, camera, image, label map, depth, normals, caption."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mate3d.cameras import make_camera
from mate3d.procedural.captions import caption_cat
from mate3d.procedural.cat import CatParameters, cat_parameters_from_latent
from mate3d.procedural.cat_field import CatField
from mate3d.procedural.tracer import AnalyticRender, render_analytic

MAX_YAW = 0.7
MAX_PITCH = 0.4


@dataclass
class ProceduralPortraits:
    """A batch of portraits with everything that is known about them.

    Args:
        z: [B, Z] latents that the cats are a function of.
        parameters: The cats' attributes.
        camera: [B, 25].
        render: Image, label map, depth, normals and opacity.
        captions: One a portrait.
    """

    z: Tensor
    parameters: CatParameters
    camera: Tensor
    render: AnalyticRender
    captions: list[str]


def sample_cameras(
    num: int,
    generator: torch.Generator | None = None,
) -> Tensor:  # [num, 25]
    """Draw cameras with yaw uniform in +-0.7 and pitch uniform in +-0.4 radians."""
    yaw, pitch = torch.rand(2, num, generator=generator) * 2 - 1
    return make_camera(MAX_YAW * yaw, MAX_PITCH * pitch)


def make_procedural_cat(
    seeds: Sequence[int],
    resolution: int,
    *,
    latent_dim: int = 64,
    supersampling: int = 2,
) -> ProceduralPortraits:
    """Make one portrait a seed; the same seed gives the same portrait in any batch.

    Args:
        seeds: One integer a portrait.
        resolution: H = W in pixels.
        latent_dim: Number of entries of z.
        supersampling: Rays a pixel along each axis of the image.
    """
    latents, cameras = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        latents.append(torch.randn(1, latent_dim, generator=generator))
        cameras.append(sample_cameras(1, generator))
    z, camera = torch.cat(latents), torch.cat(cameras)
    parameters = cat_parameters_from_latent(z)
    render = render_analytic(CatField(parameters), camera, resolution, supersampling=supersampling)
    captions = [caption_cat(parameters, i, random.Random(seed)) for i, seed in enumerate(seeds)]
    return ProceduralPortraits(z, parameters, camera, render, captions)
