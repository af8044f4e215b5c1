"""Meshes seen by a camera, drawn without any of the project's code but the camera's numbers."""

import numpy as np
import torch
import trimesh
from PIL import Image, ImageDraw

# Odd, so that the middle of a pixel is the middle of one of its parts.
_PARTS = 9


def visible_faces(
    mesh: trimesh.Trimesh,
    camera: torch.Tensor,  # [1, 25]
    side: int,
) -> np.ndarray:  # [side, side], the face at each pixel's centre or -1
    """Draw faces from back to front and read which one each pixel's centre shows."""
    cam2world = camera[0, :16].view(4, 4).double().numpy()
    intrinsics = camera[0, 16:].view(3, 3).double().numpy()
    local = (mesh.vertices - cam2world[:3, 3]) @ cam2world[:3, :3]
    pixels = (local / local[:, 2:]) @ intrinsics.T
    corners = pixels[mesh.faces, :2] * (side * _PARTS) - 0.5
    image = Image.new("I", (side * _PARTS,) * 2, -1)
    draw = ImageDraw.Draw(image)
    for face in np.argsort(-local[mesh.faces, 2].mean(axis=1)).tolist():
        draw.polygon(corners[face].ravel().tolist(), fill=face)
    middle = _PARTS // 2
    return np.asarray(image)[middle::_PARTS, middle::_PARTS]


def intersection_over_union(first: np.ndarray, second: np.ndarray) -> float:
    """Return the overlap of two boolean images."""
    return (first & second).sum() / (first | second).sum()


def median_angle_degrees(
    normals: np.ndarray,  # [3, h, w], length at most 1
    mesh: trimesh.Trimesh,
    faces: np.ndarray,  # [h, w] from `visible_faces`
    where: np.ndarray,  # [h, w] bool
) -> float:
    """Return the median angle between rendered normals and the mesh's vertex normals."""
    rendered = np.moveaxis(normals, 0, -1)[where]
    stored = mesh.vertex_normals[mesh.faces[faces[where]]].mean(axis=1)
    products = (rendered * stored).sum(axis=1)
    lengths = np.linalg.norm(rendered, axis=1) * np.linalg.norm(stored, axis=1)
    return float(np.degrees(np.median(np.arccos((products / lengths).clip(-1, 1)))))
