"""Marching cubes give known surfaces, closed, and the demo head as its renderer shows it."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image, ImageDraw

from mate3d.cameras import make_camera
from mate3d.checkpoint import load_generator
from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ, LabelSet
from mate3d.network.mapping import latents_from_seeds
from mate3d.outputs.mesh import extract_label_meshes, extract_mesh, write_meshes
from mate3d.outputs.options import MeshOptions
from mate3d.rendering.field import WrappedField
from mate3d.rendering.rays import sample_rays
from mate3d.rendering.renderer import RenderingConfig, render_field
from tests.mate3d.fields import PartsField, SphereField, ball, cube, torus

LABEL_SET = LabelSet(
    "shapes", ("background", "first", "second"), ((0, 0, 0), (200, 30, 0), (0, 90, 250))
)
TWO_BALLS = PartsField((ball(0.1, (0.15, 0.1, 0.0)), ball(0.08, (-0.2, 0.0, 0.1))))
# Odd, so that the middle of a pixel is the middle of one of its parts.
PARTS = 9


class CountingField(SphereField):
    """A ball that counts the points it is asked for."""

    num_points = 0

    def sdf(self, points):
        self.num_points += points.shape[1]
        return super().sdf(points)


@dataclasses.dataclass
class MappedField(SphereField):
    """A ball whose distance is passed through a function."""

    function: object = None

    def sdf(self, points):
        return self.function(super().sdf(points))


def noise(points):
    """Return random signs and magnitudes from 1e-12 to 1, the same for the same point."""
    waves = torch.sin(
        points.double() @ torch.tensor([[12.9e3, 3.7e3], [7.8e3, 9.1e3], [5.3e3, 1.9e3]]).double()
    )
    return (waves[..., :1].sign() * 10 ** (6 * waves[..., 1:] - 6)).float()


def reopened(mesh):
    """Return the mesh as trimesh opens it, with vertices in the same place merged."""
    return trimesh.Trimesh(mesh.vertices.astype(np.float32), mesh.faces, process=True)


def assert_closed(mesh):
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0


def visible_faces(
    mesh: trimesh.Trimesh,
    camera: torch.Tensor,  # [1, 25]
    side: int,
) -> np.ndarray:  # [side, side], the face at each pixel's centre or -1
    """Draw faces from back to front, with no code of the project; read the centres of pixels."""
    cam2world = camera[0, :16].view(4, 4).double().numpy()
    intrinsics = camera[0, 16:].view(3, 3).double().numpy()
    local = (mesh.vertices - cam2world[:3, 3]) @ cam2world[:3, :3]
    pixels = (local / local[:, 2:]) @ intrinsics.T
    corners = pixels[mesh.faces, :2] * (side * PARTS) - 0.5
    image = Image.new("I", (side * PARTS,) * 2, -1)
    draw = ImageDraw.Draw(image)
    for face in np.argsort(-local[mesh.faces, 2].mean(axis=1)).tolist():
        draw.polygon(corners[face].ravel().tolist(), fill=face)
    middle = PARTS // 2
    return np.asarray(image)[middle::PARTS, middle::PARTS]


@pytest.mark.parametrize("resolution", [33, 50])
def test_mesh_lies_where_the_shape_is_whatever_the_resolution(resolution):
    centre = (0.11, -0.07, 0.04)
    mesh = extract_mesh(PartsField((ball(0.1, centre),)), box_size=0.6, resolution=resolution)
    np.testing.assert_allclose(mesh.center_mass, centre, atol=1e-4)
    # The field's colour is the position, which only the right look-up reproduces.
    colors = mesh.visual.vertex_colors[:, :3] / 255
    np.testing.assert_allclose(colors, mesh.vertices + 0.5, atol=0.51 / 255)


def test_mesh_of_a_ball_is_the_ball_with_its_normals():
    mesh = extract_mesh(SphereField(radius=0.2), box_size=0.7, resolution=48)
    assert_closed(mesh)
    # Linear interpolation in a cell of side h misses a sphere by about h^2 / (8 r).
    spacing = 0.7 / 47
    radii = np.linalg.norm(mesh.vertices, axis=1)
    np.testing.assert_allclose(radii, 0.2, atol=spacing**2 / (8 * 0.2) * 1.5)
    np.testing.assert_allclose(mesh.vertex_normals, mesh.vertices / radii[:, None], atol=1e-5)
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.2**3, rel=0.01)


def test_normals_stay_units_where_the_distance_has_no_gradient():
    stepped = MappedField(radius=0.2, function=lambda sdf: torch.sign(sdf + 0 * sdf.detach()))
    mesh = extract_mesh(stepped, box_size=0.7, resolution=16)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertex_normals, axis=1), 1, atol=1e-5)
    assert ((mesh.vertex_normals * mesh.vertices).sum(axis=1) > 0).all()


def test_torus_keeps_its_hole_and_two_balls_stay_apart():
    mesh = extract_mesh(PartsField((torus(0.2, 0.07),)), box_size=0.7, resolution=48)
    assert_closed(mesh)
    assert mesh.euler_number == 0
    assert mesh.volume == pytest.approx(2 * math.pi**2 * 0.2 * 0.07**2, rel=0.02)
    both = extract_mesh(TWO_BALLS, box_size=0.7, resolution=48)
    assert_closed(both)
    assert both.euler_number == 4


@pytest.mark.parametrize("radius", [0.3, 0.34, 0.45, 2.0])
def test_shape_cut_by_the_box_is_closed_at_the_faces_of_the_box(radius):
    mesh = extract_mesh(SphereField(radius=radius), box_size=0.6, resolution=25)
    assert_closed(mesh)
    assert_closed(reopened(mesh))
    np.testing.assert_allclose(mesh.bounds, [[-0.3] * 3, [0.3] * 3], atol=1e-3 * 0.6 / 24)
    if radius == 2.0:
        assert mesh.volume == pytest.approx(0.6**3, rel=1e-3)


@pytest.mark.parametrize(
    "field",
    [
        SphereField(radius=0.25),
        PartsField((cube(0.25),)),
        MappedField(radius=0.3, function=lambda sdf: (sdf * 16).round() / 16),
        MappedField(radius=0.3, function=lambda sdf: sdf.where(sdf.abs() > 0.02, sdf * 1e-9)),
        MappedField(radius=0.3, function=lambda sdf: sdf.where(sdf < 0.02, sdf * 1e6)),
        PartsField((noise,)),
    ],
    ids=["touched points", "flat faces", "steps", "almost zeros", "cliff", "noise"],
)
def test_zeros_at_grid_points_leave_no_gap_and_no_empty_face(field):
    mesh = extract_mesh(field, box_size=1.0, resolution=17)
    assert_closed(mesh)
    assert mesh.area_faces.min() > 0
    assert_closed(reopened(mesh))
    assert len(reopened(mesh).vertices) == len(mesh.vertices)


@pytest.mark.parametrize("resolution", [30, 49])
@pytest.mark.parametrize(
    "field",
    [
        SphereField(radius=0.45),
        TWO_BALLS,
        PartsField((torus(0.2, 0.03), ball(0.02, (0.3, 0.3, -0.3)))),
        # A rod so steep that its distance shows nowhere but at the rod itself.
        PartsField(
            (ball(0.1), lambda points: 40 * (points[..., 1:].norm(dim=-1, keepdim=True) - 0.03))
        ),
    ],
    ids=["cut ball", "two balls", "thin torus and speck", "steep rod"],
)
def test_evaluation_near_the_surface_gives_the_mesh_of_all_points(field, resolution):
    near = extract_mesh(field, 0.7, resolution)
    dense = extract_mesh(field, 0.7, resolution, evaluation="dense")
    assert np.array_equal(near.faces, dense.faces)
    np.testing.assert_allclose(near.vertices, dense.vertices, atol=1e-6)


def test_distances_are_evaluated_near_the_surface_only():
    field = CountingField(radius=0.2)
    extract_mesh(field, 0.7, 96)
    assert field.num_points < 96**3 / 3


def test_pseudo_distances_are_evaluated_everywhere():
    field = CountingField(radius=0.2)
    field.sdf = lambda points: 30 * CountingField.sdf(field, points)
    mesh = extract_mesh(field, 0.7, 64)
    assert_closed(mesh)
    assert field.num_points > 64**3


def test_each_label_is_a_closed_part_in_its_colour():
    overlapping = PartsField((ball(0.15), ball(0.1, (0.12, 0.0, 0.0)), ball(-0.1)))
    names = ("background", "first", "second", "none")
    label_set = LabelSet("shapes", names, (*LABEL_SET.palette, (9, 9, 9)))
    parts = extract_label_meshes(overlapping, 0.7, label_set, 40)
    assert list(parts) == ["first", "second"]
    for radius, color, part in zip((0.15, 0.1), LABEL_SET.palette[1:], parts.values(), strict=True):
        assert_closed(part)
        assert part.volume == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.03)
        assert (part.visual.vertex_colors[:, :3] == color).all()


@torch.no_grad()
def test_silhouette_and_normals_are_the_rendered_ones_from_any_side():
    field = PartsField((torus(0.16, 0.07), ball(0.1, (0.12, 0.16, 0.1))))
    mesh = extract_mesh(field, 0.7, 96)
    config = RenderingConfig(near=2.3, far=3.1, num_coarse_samples=48, num_fine_samples=48)
    for camera in (make_camera(0.0), make_camera(0.6, 0.3)):
        view = render_field(field, *sample_rays(camera, 64), config, with_normals=True)
        is_opaque = view.opacity[0, 0].numpy() > 0.5
        faces = visible_faces(mesh, camera, 64)
        where = (faces >= 0) & is_opaque
        assert where.sum() / ((faces >= 0) | is_opaque).sum() >= 0.97
        rendered = view.normals[0].numpy()[:, where].T
        stored = mesh.vertex_normals[mesh.faces[faces[where]]].mean(axis=1)
        lengths = np.linalg.norm(rendered, axis=1) * np.linalg.norm(stored, axis=1)
        cosines = (rendered * stored).sum(axis=1) / lengths
        assert np.degrees(np.median(np.arccos(cosines.clip(-1, 1)))) < 5


@pytest.mark.gpu
@torch.no_grad()
def test_head_on_a_gpu_gives_the_mesh_of_the_cpu(tiny_generator):
    ws = torch.randn(1, tiny_generator.num_ws, 16, generator=torch.Generator().manual_seed(0))
    head = tiny_generator.make_field(ws)
    # An untrained head has a surface once the distance at the centre is made zero.
    tiny_generator.decoder.sdf_head[2].bias -= head.sdf(torch.zeros(1, 1, 3)).item()
    on_cpu = extract_mesh(head, 0.7, 24)
    on_gpu = extract_mesh(tiny_generator.cuda().make_field(ws.cuda()), 0.7, 24)
    assert_closed(on_gpu)
    assert on_gpu.volume == pytest.approx(on_cpu.volume, rel=1e-2)


UNLABELLED = LabelSet("unlabelled", (), ())
BROKEN = MappedField(function=lambda sdf: sdf.where(sdf > 0, float("nan")))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: extract_mesh(SphereField(radius=-0.1), 0.7, 8), "no surface"),
        (lambda: extract_mesh(BROKEN, 0.7, 16), "not finite"),
        (lambda: extract_label_meshes(SphereField(), 0.7, UNLABELLED, 16), "label"),
        (
            lambda: extract_label_meshes(PartsField((ball(-0.1),) * 5), 0.7, CATMASK_HQ, 16),
            "catmask_hq",
        ),
        (lambda: MeshOptions(resolution=4), "resolution=4.* 8 to 1024"),
        (lambda: MeshOptions(formats=("stl",)), "stl.*ply, obj, glb"),
        (lambda: MeshOptions(formats=()), "ply, obj, glb"),
        (lambda: MeshOptions(coloring="depth"), "coloring=depth"),
    ],
)
def test_meshes_that_cannot_be_made_are_refused(make, named):
    with pytest.raises(UserError, match=named):
        make()


DEMO = Path(__file__).parents[3] / "mate3d/assets/demo_cat"
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
    sampled = WrappedField(head)
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
