"""Conversion of a density decoder to an SDF decoder, so that training can start from EG3D.

EG3D has no distances, but its raw density increases monotonically through the surface. So
d = scale * (level - raw), an affine change of the density head's last layer, is negative inside and
zero on the extracted surface. The scale makes the mean slope at the surface 1, as the eikonal term
requires. Away from the surface d is not a distance yet: densities level off in empty space, and d
with them, until training stretches it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mate3d.generator import Generator
from mate3d.network.mapping import latents_from_seeds
from mate3d.rendering.field import field_gradient
from mate3d.rendering.triplane import TriPlaneField

_NUM_HEADS = 4
_NUM_POINTS = 16384
_NUM_PAIRS = 1024
_BISECTIONS = 20


def color_head_tensors(
    density_head: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Return the colour head of a joint head: its first layer and the rows after the density."""
    return density_head | {name: density_head[name][1:] for name in ("2.weight", "2.bias")}


def density_row_tensors(
    density_head: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Return the density head of a joint head, or of a density head itself."""
    return density_head | {name: density_head[name][:1] for name in ("2.weight", "2.bias")}


def sdf_head_tensors(
    density_head: dict[str, Tensor],
    density_level: float,
) -> dict[str, Tensor]:
    """Return a head for level - density, whose zero level set is the source's surface."""
    row = density_row_tensors(density_head)
    return row | {"2.weight": -row["2.weight"], "2.bias": density_level - row["2.bias"]}


def perturbed(
    head: dict[str, Tensor],
    relative_size: float,
) -> dict[str, Tensor]:
    """Return a head with normal noise on its weights, relative to each weight tensor's RMS.

    Biases are unchanged, because they hold the offset that determines the surface.
    """
    return {
        name: value + relative_size * value.square().mean().sqrt() * torch.randn_like(value)
        if name.endswith("weight")
        else value
        for name, value in head.items()
    }


@dataclass(frozen=True)
class Surface:
    """Statistics of a generator's zero level set, over a few heads.

    Args:
        slope: Mean length of the SDF gradient at the surface; 1 if there is no surface.
        num_points: Number of surface points averaged; 0 if there is no surface.
        empty_distance: Median of positive SDF values, the typical value in empty space.
    """

    slope: float
    num_points: int
    empty_distance: float


def measure_surface(generator: Generator) -> Surface:
    """Measure the heads of a few fixed latents, without using PyTorch's global random state."""
    device = generator.mapping.w_avg.device
    random = torch.Generator().manual_seed(0)
    z = latents_from_seeds(range(_NUM_HEADS), generator.config.z_dim).to(device)
    camera = generator.config.camera_rig.make_camera().to(device)
    slopes, outside = [], []
    for latent in z.split(1):
        points = torch.rand(1, _NUM_POINTS, 3, generator=random) - 0.5
        points = points.to(device) * generator.config.box_size
        with torch.no_grad():
            field = generator.make_field(generator.map(latent, camera))
            sdf = field.sdf(points)
        outside.append(sdf[sdf > 0])
        slopes.append(_slopes_at_surface(field, points, sdf))
    all_slopes, all_outside = torch.cat(slopes), torch.cat(outside)
    return Surface(
        slope=all_slopes.mean().item() if len(all_slopes) else 1.0,
        num_points=len(all_slopes),
        empty_distance=all_outside.median().item() if len(all_outside) else 0.0,
    )


def _slopes_at_surface(
    field: TriPlaneField,
    points: Tensor,  # [1, N, 3]
    sdf: Tensor,  # [1, N, 1]
) -> Tensor:  # [M]
    """Bisect segments between inside and outside points; return the slopes at the surface."""
    is_inside = sdf[0, :, 0] < 0
    inside, outside = points[:, is_inside], points[:, ~is_inside]
    count = min(inside.shape[1], outside.shape[1], _NUM_PAIRS)
    if count == 0:
        return points.new_empty(0)
    inside, outside = inside[:, :count], outside[:, :count]
    with torch.no_grad():
        for _ in range(_BISECTIONS):
            middle = (inside + outside) / 2
            is_middle_inside = field.sdf(middle) < 0
            inside = torch.where(is_middle_inside, middle, inside)
            outside = torch.where(is_middle_inside, outside, middle)
    return field_gradient(field, inside).norm(dim=-1).flatten()
