"""Any field to a triangle mesh with vertex colours: marching cubes of the global distance."""

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes

from mate3d.errors import UserError
from mate3d.field import Field

_CHUNK_POINTS = 65536


@torch.no_grad()
def evaluate_grid(
    field: Field,
    box_size: float,
    resolution: int,
) -> np.ndarray:  # [resolution, resolution, resolution], axes x, y, z
    """Return the global distance on a regular grid over the box, slice by slice."""
    axis = torch.linspace(-box_size / 2, box_size / 2, resolution)
    y, z = torch.meshgrid(axis, axis, indexing="ij")
    volume = np.empty((resolution,) * 3, dtype=np.float32)
    for index, x in enumerate(axis):
        points = torch.stack([torch.full_like(y, x.item()), y, z], dim=-1).view(1, -1, 3)
        parts = [field.sdf(chunk) for chunk in points.split(_CHUNK_POINTS, dim=1)]
        volume[index] = torch.cat(parts, dim=1).view(resolution, resolution).numpy()
    return volume


@torch.no_grad()
def extract_mesh(
    field: Field,
    box_size: float,
    resolution: int = 128,
) -> trimesh.Trimesh:
    """Return the surface where the global distance is zero, coloured by the field's RGB.

    Args:
        field: One head (batch of 1) on the CPU.
        box_size: Side of the cube searched, centred at the origin, world units.
        resolution: Grid points a side.

    Raises:
        UserError: If the distance is nowhere zero in the box.
    """
    volume = evaluate_grid(field, box_size, resolution)
    # Outside of the box is empty: a head that reaches the border is closed there.
    volume = np.pad(volume, 1, constant_values=max(float(volume.max()), 1e-3))
    if volume.min() >= 0:
        raise UserError("the head has no surface: its distance is positive everywhere in the box")
    spacing = box_size / (resolution - 1)
    vertices, faces, _, _ = marching_cubes(volume, level=0.0, spacing=(spacing,) * 3)
    vertices = vertices - box_size / 2 - spacing
    points = torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32)).unsqueeze(0)
    parts = [field.sample(chunk).features[0, :, :3] for chunk in points.split(_CHUNK_POINTS, dim=1)]
    colors = (torch.cat(parts).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return trimesh.Trimesh(vertices, faces, vertex_colors=colors, process=False)
