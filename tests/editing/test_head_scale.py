"""Lengths of a head, against shapes whose lengths are known."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from editing.head_scale import measure_head
from editing.views import find_softness, soften
from mate3d.cameras import make_camera
from mate3d.network.sdf_decoder import sdf_to_density
from tests.editing.conftest import TINY_CONFIG
from tests.mate3d.fields import SphereField


@dataclass
class Sphere(SphereField):
    """A sphere with distances in other units, and a surface of known softness."""

    slope: float = 1.0
    beta: float = 0.01

    def sdf(self, points):
        return self.slope * super().sdf(points)

    def density(self, sdf):
        return sdf_to_density(sdf, self.beta)


CONFIG = replace(TINY_CONFIG, neural_rendering_resolution=64)
RADIUS = 0.15


def measure(**values):
    return measure_head(Sphere(radius=torch.tensor(RADIUS), **values), make_camera(0.0), CONFIG)


def test_lengths_of_a_sphere():
    scale = measure(slope=1.0, beta=0.002)
    assert scale.size == pytest.approx(math.sqrt(math.pi) * RADIUS, rel=0.1)
    assert scale.slope == pytest.approx(1, rel=1e-3)
    # Facing a plane it would be 2 ln(9) (beta + 1e-4); rays meet a sphere at an angle.
    assert 1 < scale.thickness / (2 * math.log(9) * 0.0021) < 2


def test_units_of_the_distance_change_the_slope_alone():
    one, twenty = measure(slope=1.0, beta=0.002), measure(slope=20.0, beta=0.002)
    assert twenty.slope == pytest.approx(20 * one.slope, rel=1e-3)
    # A sphere so steep and soft is a little smaller.
    assert twenty.size == pytest.approx(one.size, rel=0.1)
    assert twenty.distance(0.1) == pytest.approx(20 * one.distance(0.1), rel=0.1)


def test_softened_surfaces_have_the_thickness_asked_for():
    camera, sphere = make_camera(0.0), Sphere(radius=torch.tensor(RADIUS), beta=0.0005)
    scale = measure(beta=0.0005)
    softness = find_softness(0.06, scale, 1 / 0.0006)
    thickness = measure_head(soften(sphere, softness), camera, CONFIG).thickness
    assert 1 < thickness / (0.06 * scale.size) < 2
    assert find_softness(scale.thickness / scale.size, scale, 1 / 0.0006) is None
    # A field that is steep but thin keeps its density.
    steep = find_softness(0.06, replace(scale, slope=20.0), 20.0)
    assert steep(sphere).peak == pytest.approx(20)


def test_a_head_that_lets_light_through_is_thick():
    scale = measure(beta=1.0)
    assert scale.thickness > scale.size > 0
    assert all(math.isfinite(value) for value in vars(scale).values())
