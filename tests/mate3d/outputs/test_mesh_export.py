"""Mesh files open elsewhere as what was written, or are not there."""

import json
import struct

import numpy as np
import pytest
import trimesh

from mate3d.errors import UserError
from mate3d.labels import LabelSet
from mate3d.outputs.mesh import extract_mesh, write_meshes
from mate3d.outputs.mesh_export import save_mesh
from mate3d.outputs.options import MeshOptions
from tests.mate3d.fields import PartsField, ball

LABEL_SET = LabelSet(
    "shapes", ("background", "left", "right"), ((0, 0, 0), (200, 30, 0), (0, 90, 250))
)
FIELD = PartsField((ball(0.1, (-0.15, 0.0, 0.0)), ball(0.1, (0.15, 0.0, 0.0))))


def write(folder, field=FIELD, stem="head", label_set=LABEL_SET, **options):
    options = MeshOptions(resolution=24, **options)
    return write_meshes(folder, stem, field, options, box_size=0.7, label_set=label_set)


def read_glb(path):
    """Return the document of a GLB file and a function that reads an accessor (glTF 2.0)."""
    content = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", content[:12])
    assert (magic, version, length) == (b"glTF", 2, len(content))
    json_length = struct.unpack("<I", content[12:16])[0]
    document = json.loads(content[20 : 20 + json_length])
    binary = content[28 + json_length :]

    def accessor(index):
        entry = document["accessors"][index]
        assert entry["componentType"] == 5126, "float"
        start = document["bufferViews"][entry["bufferView"]]["byteOffset"]
        width = {"VEC3": 3, "VEC4": 4}[entry["type"]]
        offset = start + entry.get("byteOffset", 0)
        return np.frombuffer(binary, "<f4", entry["count"] * width, offset).reshape(-1, width)

    return document, accessor


@pytest.mark.parametrize("kind", ["ply", "obj", "glb"])
def test_file_opens_closed_with_the_normals_of_the_mesh(tmp_path, kind):
    mesh = extract_mesh(FIELD, 0.7, 24)
    path = tmp_path / f"head.{kind}"
    save_mesh(path, mesh)
    (opened,) = trimesh.load_scene(path).geometry.values()
    assert opened.is_watertight and opened.is_winding_consistent
    assert opened.volume == pytest.approx(mesh.volume, rel=1e-5)
    np.testing.assert_allclose(opened.vertices, mesh.vertices, atol=1e-7)
    assert np.array_equal(opened.faces, mesh.faces)
    # Those that were written, not those that trimesh would make from faces.
    np.testing.assert_allclose(opened.vertex_normals, mesh.vertex_normals, atol=1e-6)
    if kind != "glb":
        assert np.array_equal(opened.visual.vertex_colors, mesh.visual.vertex_colors)


def test_colours_of_glb_are_linear_on_a_material_that_is_no_metal(tmp_path):
    mesh = extract_mesh(FIELD, 0.7, 24)
    save_mesh(tmp_path / "head.glb", mesh)
    document, accessor = read_glb(tmp_path / "head.glb")
    (primitive,) = document["meshes"][0]["primitives"]
    linear = accessor(primitive["attributes"]["COLOR_0"]).astype(np.float64)
    # A viewer encodes as sRGB what it has computed in linear light.
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(255 * srgb, mesh.visual.vertex_colors[:, :3], atol=0.01)
    assert document["materials"][primitive["material"]]["pbrMetallicRoughness"] == {
        "baseColorFactor": [1.0, 1.0, 1.0, 1.0],
        "metallicFactor": 0.0,
        "roughnessFactor": 1.0,
    }


def test_parts_are_files_of_their_own_and_nodes_of_one_scene(tmp_path):
    paths = write(tmp_path / "new", formats=("ply", "glb"), coloring="label", per_label=True)
    assert [path.name for path in paths] == [
        "head.ply",
        "head_left.ply",
        "head_right.ply",
        "head.glb",
        "head_left.glb",
        "head_right.glb",
        "head_parts.glb",
    ]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        path.name for path in paths
    )
    document, _ = read_glb(paths[-1])
    assert {"left", "right"} <= {node["name"] for node in document["nodes"]}
    scene = trimesh.load_scene(paths[-1])
    assert set(scene.geometry) == {"left", "right"}
    for side, mesh in scene.geometry.items():
        assert mesh.is_watertight
        assert np.sign(mesh.center_mass[0]) == {"left": -1, "right": 1}[side]
    opened = trimesh.load_mesh(paths[1])
    assert (opened.visual.vertex_colors[:, :3] == LABEL_SET.palette[1]).all()


def test_nothing_is_written_when_an_option_does_not_fit_the_head(tmp_path):
    unlabelled = LabelSet("unlabelled", (), ())
    for options in ({"coloring": "label"}, {"per_label": True}):
        with pytest.raises(UserError, match="needs labels"):
            write(tmp_path, label_set=unlabelled, **options)
    assert not list(tmp_path.iterdir())
    assert write(tmp_path, label_set=unlabelled)[0].is_file()
