"""The demo generator's head as a mesh: closed, and what its renderer shows."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from mate3d.checkpoint import load_generator
from mate3d.generation.precision import LowPrecisionField, Precision
from mate3d.network.mapping import latents_from_seeds
from mate3d.outputs.mesh import MeshOptions, extract_label_meshes, extract_mesh, write_meshes
from mate3d.rendering.rays import sample_rays
from mate3d.rendering.renderer import render_field
from tests.mate3d.outputs.mesh_painter import visible_faces

DEMO = Path(__file__).parents[3] / "assets/demo_generator"
SIDE = 128


@pytest.fixture(scope="module")
def demo():
    """The generator, its head of seed 0, the front camera, and the head rendered there."""
    generator = load_generator(DEMO)
    camera = generator.config.camera_rig.make_camera()
    with torch.no_grad():
        ws = generator.map(latents_from_seeds([0], generator.config.z_dim), camera)
        head = generator.make_field(ws)
        origins, directions = sample_rays(camera, SIDE)
        view = render_field(
            head, origins, directions, generator.config.rendering, with_normals=True
        )
    return generator, head, camera, view


@pytest.fixture(scope="module")
def demo_mesh(demo):
    generator, head, _, _ = demo
    return extract_mesh(
        head,
        generator.config.box_size,
        resolution=96,
        coloring="label",
        label_set=generator.label_set,
    )


def test_files_of_the_demo_head_open_as_watertight(demo, tmp_path):
    generator, head, _, _ = demo
    options = MeshOptions(resolution=96, formats=("ply", "obj", "glb"))
    paths = write_meshes(
        tmp_path,
        "head",
        head,
        options,
        box_size=generator.config.box_size,
        label_set=generator.label_set,
    )
    assert [path.name for path in paths] == ["head.ply", "head.obj", "head.glb"]
    for path in paths:
        mesh = trimesh.load_mesh(path)
        assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0.01, path


def test_mesh_near_the_surface_only_is_the_mesh_of_all_points(demo, demo_mesh):
    generator, head, _, _ = demo
    dense = extract_mesh(head, generator.config.box_size, resolution=96, evaluation="dense")
    assert np.array_equal(demo_mesh.faces, dense.faces)
    # How many points are evaluated at once may change the last bits of a distance.
    np.testing.assert_allclose(demo_mesh.vertices, dense.vertices, atol=1e-6)


def test_parts_are_those_of_all_sampled_distances(demo):
    generator, head, _, _ = demo
    sampled = LowPrecisionField(head, Precision(head.device))
    box_size, label_set = generator.config.box_size, generator.label_set
    parts = extract_label_meshes(head, box_size, label_set, 32)
    expected = extract_label_meshes(sampled, box_size, label_set, 32)
    assert set(parts) == set(expected) >= {"skin", "ears", "eyes"}
    for name, part in parts.items():
        assert np.array_equal(part.faces, expected[name].faces)
        # Where a distance is flat, its rounding moves a vertex by more than its value.
        first, second = (
            sampled.sample(torch.from_numpy(mesh.vertices).float()[None]).class_sdf
            for mesh in (part, expected[name])
        )
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
        np.testing.assert_allclose(part.vertex_normals, expected[name].vertex_normals, atol=1e-2)


def test_label_colours_are_the_rendered_labels(demo, demo_mesh):
    generator, _, camera, view = demo
    faces_in_view = visible_faces(demo_mesh, camera, SIDE)
    where = (faces_in_view >= 0) & (view.opacity[0, 0].numpy() > 0.5)
    rendered = view.segmentation_raw.argmax(dim=1)[0].numpy()[where]
    corner = demo_mesh.faces[faces_in_view[where], 0]
    colors = demo_mesh.visual.vertex_colors[corner, :3]
    agrees = (colors == np.array(generator.label_set.palette)[rendered]).all(axis=1)
    assert agrees.mean() > 0.95
