"""Triangle meshes to PLY, OBJ and GLB files, each complete or absent."""

from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from mate3d.atomic import atomic_file

# trimesh only keeps application attributes; this one becomes the mesh's colour in the file.
_LINEAR_COLOR = "_LINEAR_COLOR"


def save_mesh(path: Path, mesh: trimesh.Trimesh) -> None:
    """Write a mesh with vertex normals and colours in the format of the suffix.

    PLY and OBJ hold sRGB colours. GLB holds linear colours, as glTF requires.
    """
    kind = path.suffix.removeprefix(".")
    if kind == "glb":
        save_scene(path, {path.stem: mesh})
    elif kind == "ply":
        _write(path, mesh.export(file_type="ply", vertex_normal=True))
    else:
        _write(path, mesh.export(file_type="obj", include_normals=True).encode())


def save_scene(path: Path, meshes: dict[str, trimesh.Trimesh]) -> None:
    """Write named meshes as the nodes of one GLB scene."""
    scene = trimesh.Scene()
    for name, mesh in meshes.items():
        colored = trimesh.Trimesh(
            mesh.vertices,
            mesh.faces,
            vertex_normals=mesh.vertex_normals,
            vertex_attributes={_LINEAR_COLOR: srgb_to_linear(mesh.visual.vertex_colors[:, :3])},
            process=False,
        )
        scene.add_geometry(colored, node_name=name, geom_name=name)
    content = scene.export(
        file_type="glb", include_normals=True, tree_postprocessor=_set_color_and_material
    )
    _write(path, content)


def srgb_to_linear(
    colors: np.ndarray,  # [..., 3] uint8
) -> np.ndarray:  # [..., 3] float32 in 0..1
    """Decode sRGB (IEC 61966-2-1)."""
    values = np.asarray(colors, dtype=np.float32) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(
        np.float32
    )


def _set_color_and_material(tree: dict[str, Any]) -> None:
    """Use the attribute as colour, in floats: eight linear bits are too few for dark colours."""
    # glTF's default material is a metal, which looks black without an environment.
    factors = {"baseColorFactor": [1.0] * 4, "metallicFactor": 0.0, "roughnessFactor": 1.0}
    tree["materials"] = [{"pbrMetallicRoughness": factors}]
    for mesh in tree["meshes"]:
        (primitive,) = mesh["primitives"]
        primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop(_LINEAR_COLOR)
        primitive["material"] = 0


def _write(path: Path, content: bytes) -> None:
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
