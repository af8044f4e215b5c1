"""Marching cubes of a ball gives a ball."""

import math

import pytest

from mate3d.errors import UserError
from mate3d.mesh import extract_mesh
from tests.mate3d.fields import SphereField


def test_mesh_of_a_ball_is_watertight_with_its_volume_and_colour():
    mesh = extract_mesh(SphereField(radius=0.2), box_size=0.7, resolution=48)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.2**3, rel=0.02)
    assert (mesh.visual.vertex_colors[:, :3] == [255, 0, 0]).all()


def test_mesh_that_reaches_the_border_of_the_box_is_closed_there():
    assert extract_mesh(SphereField(radius=0.5), box_size=0.7, resolution=24).is_watertight


def test_no_surface_is_an_error():
    with pytest.raises(UserError, match="no surface"):
        extract_mesh(SphereField(radius=-0.1), box_size=0.7, resolution=8)
