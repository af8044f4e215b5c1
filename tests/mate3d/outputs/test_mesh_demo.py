"""The demo generator's head as a mesh: closed, and what its renderer shows."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image, ImageDraw

from mate3d.checkpoint import load_generator
from mate3d.network.mapping import latents_from_seeds
from mate3d.outputs import mesh as mesh_module
from mate3d.outputs.mesh import MeshOptions, extract_label_meshes, extract_mesh, write_meshes
from mate3d.rendering.rays import sample_rays
from mate3d.rendering.renderer import render_field

DEMO = Path(__file__).parents[3] / "assets/demo_generator"
SIDE = 128
# Of a pixel; odd, so that its middle is the middle of one of them.
PARTS = 9


@pytest.fixture(scope="module")
def demo():
    """The generator, its head of seed 0, and the head's mesh."""
    generator = load_generator(DEMO)
    with torch.no_grad():
        camera = generator.config.camera_rig.make_camera()
        ws = generator.map(latents_from_seeds([0], generator.config.z_dim), camera)
        head = generator.make_field(ws)
    labels = {"coloring": "label", "label_set": generator.label_set}
    return generator, head, extract_mesh(head, generator.config.box_size, 96, **labels)


def visible_faces(
    mesh: trimesh.Trimesh,
    camera: torch.Tensor,  # [1, 25]
) -> np.ndarray:  # [SIDE, SIDE], the face at each pixel's centre or -1
    """Draw faces from back to front, without any of the project's code but the camera's numbers."""
    cam2world = camera[0, :16].view(4, 4).double().numpy()
    intrinsics = camera[0, 16:].view(3, 3).double().numpy()
    local = (mesh.vertices - cam2world[:3, 3]) @ cam2world[:3, :3]
    pixels = (local / local[:, 2:]) @ intrinsics.T
    corners = pixels[mesh.faces, :2] * (SIDE * PARTS) - 0.5
    image = Image.new("I", (SIDE * PARTS,) * 2, -1)
    draw = ImageDraw.Draw(image)
    for face in np.argsort(-local[mesh.faces, 2].mean(axis=1)).tolist():
        draw.polygon(corners[face].ravel().tolist(), fill=face)
    return np.asarray(image)[PARTS // 2 :: PARTS, PARTS // 2 :: PARTS]


def test_files_of_the_demo_head_open_as_watertight(demo, tmp_path):
    generator, head, _ = demo
    options = MeshOptions(resolution=96, formats=("ply", "obj", "glb"))
    sizes = {"box_size": generator.config.box_size, "label_set": generator.label_set}
    paths = write_meshes(tmp_path, "head", head, options, **sizes)
    assert [path.name for path in paths] == ["head.ply", "head.obj", "head.glb"]
    for path in paths:
        mesh = trimesh.load_mesh(path)
        assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0.01, path


def test_mesh_near_the_surface_only_is_the_mesh_of_all_points(demo):
    generator, head, mesh = demo
    dense = extract_mesh(head, generator.config.box_size, resolution=96, evaluation="dense")
    assert np.array_equal(mesh.faces, dense.faces)
    # How many points are evaluated at once may change the last bits of a distance.
    np.testing.assert_allclose(mesh.vertices, dense.vertices, atol=1e-6)


@torch.no_grad()
def test_parts_are_those_of_all_sampled_distances(demo):
    generator, head, _ = demo
    torch.manual_seed(0)
    points = (torch.rand(1, 4096, 3) - 0.5) * generator.config.box_size
    sampled = head.sample(points).class_sdf
    for index in range(generator.label_set.num_classes):
        alone = mesh_module._class_distance(head, index)(points)
        torch.testing.assert_close(alone, sampled[..., index : index + 1], rtol=1e-5, atol=1e-6)
    parts = extract_label_meshes(head, generator.config.box_size, generator.label_set, 32)
    assert set(parts) >= {"skin", "ears", "eyes"}


@torch.no_grad()
def test_silhouette_normals_and_labels_are_the_rendered_ones_from_the_side(demo):
    generator, head, mesh = demo
    camera = generator.config.camera_rig.make_camera(0.6, 0.3)
    rays = sample_rays(camera, SIDE)
    view = render_field(head, *rays, generator.config.rendering, with_normals=True)
    faces, is_opaque = visible_faces(mesh, camera), view.opacity[0, 0].numpy() > 0.5
    where = (faces >= 0) & is_opaque
    assert where.sum() / ((faces >= 0) | is_opaque).sum() >= 0.97
    normals = view.normals[0].movedim(0, -1)[torch.from_numpy(where)]
    stored = torch.from_numpy(mesh.vertex_normals[mesh.faces[faces[where]]].mean(axis=1))
    cosines = torch.cosine_similarity(normals.double(), stored)
    assert cosines.clamp(-1, 1).acos().rad2deg().median() < 5
    rendered = view.segmentation_raw.argmax(dim=1)[0].numpy()[where]
    colors = mesh.visual.vertex_colors[mesh.faces[faces[where], 0], :3]
    agrees = (colors == np.array(generator.label_set.palette)[rendered]).all(axis=1)
    assert agrees.mean() > 0.95
