"""Triangle meshes of a field, with normals and colours, by marching cubes."""

import logging
from pathlib import Path

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes
from torch import Tensor

from mate3d.errors import UserError
from mate3d.labels import LabelSet
from mate3d.outputs.mesh_export import save_mesh, save_scene
from mate3d.outputs.mesh_grid import Distance, Evaluation, Grid, evaluate_volume, in_chunks
from mate3d.outputs.options import Coloring, MeshOptions
from mate3d.rendering.field import Field, spatial_gradient, unit_normals
from mate3d.rendering.triplane import TriPlaneField

logger = logging.getLogger(__name__)


@torch.no_grad()
def extract_mesh(
    field: Field,
    box_size: float,
    resolution: int = 256,
    *,
    coloring: Coloring = "texture",
    label_set: LabelSet | None = None,
    evaluation: Evaluation = "auto",
) -> trimesh.Trimesh:
    """Return the surface of the head with normals and sRGB colours.

    Args:
        field: One head (batch of 1) on any device.
        box_size: Side of the searched cube, centred at the origin, in world units.
        resolution: Grid points per side.
        coloring: "texture" uses the field's RGB at the vertices. "label" uses the palette colour of
            the class with the smallest distance, which is the class with the highest score.
        label_set: The classes, for coloring "label".
        evaluation: See `evaluate_volume`.

    Raises:
        UserError: If the head has no surface in the box, or no labels to colour by.
    """
    if coloring == "label":
        _check_labels(label_set, "coloring by label")
    grid = Grid(box_size, resolution, field.device)
    mesh = _extract_surface(field.sdf, grid, evaluation)
    if mesh is None:
        raise UserError("the head has no surface in the box (its distance is never negative)")
    points = _points_on_surface(mesh, grid)
    if coloring == "label":
        labels = in_chunks(lambda p: field.sample(p).class_sdf.argmin(-1, keepdim=True), points)
        mesh.visual.vertex_colors = np.array(label_set.palette, dtype=np.uint8)[labels[:, 0]]
    else:
        colors = in_chunks(lambda p: field.sample(p).features[..., :3], points)
        mesh.visual.vertex_colors = (colors.clip(0, 1) * 255).round().astype(np.uint8)
    return mesh


@torch.no_grad()
def extract_label_meshes(
    field: Field,
    box_size: float,
    label_set: LabelSet,
    resolution: int = 256,
) -> dict[str, trimesh.Trimesh]:
    """Return the closed surface of each class in its palette colour.

    The background and classes without a surface are left out. Arguments are as in `extract_mesh`.

    Raises:
        UserError: If there are no labels or no class has a surface.
    """
    _check_labels(label_set, "one mesh per label")
    grid = Grid(box_size, resolution, field.device)
    meshes = {}
    for class_id, name in enumerate(label_set.class_names):
        if name == "background":
            continue
        mesh = _extract_surface(_class_distance(field, class_id), grid)
        if mesh is None:
            logger.info("no mesh for class %s: it has no surface in the box", name)
            continue
        mesh.visual.vertex_colors = np.array([label_set.palette[class_id]] * len(mesh.vertices))
        meshes[name] = mesh
    if not meshes:
        raise UserError(f"no class of {label_set.name} has a surface in the box")
    return meshes


def write_meshes(
    folder: str | Path,
    stem: str,
    field: Field,
    options: MeshOptions,
    *,
    box_size: float,
    label_set: LabelSet,
) -> list[Path]:
    """Write the head and, if requested, its parts; each file is complete or absent.

    Args:
        folder: Created if it is missing.
        stem: The head is written to `<stem>.ply`, a part to `<stem>_<class>.ply`. For GLB, one
            scene `<stem>_parts.glb` also holds all parts as nodes.
        field: One head (batch of 1) on any device.
        options: What to write; `enabled` is not read here.
        box_size: Side of the searched cube in world units.

    Raises:
        UserError: As in `extract_mesh` and `extract_label_meshes`, or if a file cannot be written.
    """
    resolution, parts = options.resolution, {}
    head = extract_mesh(field, box_size, resolution, coloring=options.coloring, label_set=label_set)
    if options.per_label:
        parts = extract_label_meshes(field, box_size, label_set, resolution)
    meshes = {stem: head} | {f"{stem}_{name}": part for name, part in parts.items()}
    folder, paths = Path(folder), []
    for kind in options.formats:
        for name, mesh in meshes.items():
            paths.append(folder / f"{name}.{kind}")
            save_mesh(paths[-1], mesh)
        if parts and kind == "glb":
            paths.append(folder / f"{stem}_parts.glb")
            save_scene(paths[-1], parts)
    return paths


def _check_labels(label_set: LabelSet | None, purpose: str) -> None:
    if label_set is None or label_set.num_classes == 0:
        raise UserError(f"{purpose} needs labels, but this head has none")


def _class_distance(field: Field, class_id: int) -> Distance:
    if isinstance(field, TriPlaneField) and len(field.decoder.class_heads) > 1:
        # Evaluating all heads and colours would cost several times as much.
        head = field.decoder.class_heads[class_id]
        return lambda points: head(field.shape_features(points))
    return lambda points: field.sample(points).class_sdf[..., class_id : class_id + 1]


def _extract_surface(
    distance: Distance, grid: Grid, evaluation: Evaluation = "auto"
) -> trimesh.Trimesh | None:
    """Return the zero level of a distance with vertex normals; None if it has none."""
    volume = evaluate_volume(distance, grid, evaluation)
    if volume.min() >= 0:
        return None
    vertices, faces, _, _ = marching_cubes(volume, level=0.0)
    # The volume has one extra layer around the grid.
    vertices = (vertices.astype(np.float64) - 1) * grid.spacing - grid.box_size / 2
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    gradient = spatial_gradient(distance, _points_on_surface(mesh, grid))
    normals = unit_normals(gradient)[0].cpu().numpy()
    normals = np.where(np.abs(normals).sum(axis=1, keepdims=True) > 0, normals, mesh.vertex_normals)
    # Vertices outside the box belong to the lids that close cut surfaces.
    outside = np.abs(vertices) > grid.box_size / 2
    is_lid = outside.any(axis=1, keepdims=True)
    mesh.vertex_normals = np.where(is_lid, np.sign(vertices) * outside, normals)
    return mesh


def _points_on_surface(mesh: trimesh.Trimesh, grid: Grid) -> Tensor:  # [1, N, 3]
    half = grid.box_size / 2
    points = torch.from_numpy(mesh.vertices.clip(-half, half).astype(np.float32))
    return points.unsqueeze(0).to(grid.device)
