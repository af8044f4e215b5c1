"""Tests of solids that are measured together."""

import torch

from mate3d.procedural.primitives import (
    RoundCone,
    RoundCones,
    ball,
    round_cone_distance,
    sphere_distance,
)


def random_cone(generator: torch.Generator) -> RoundCone:
    start, axis = torch.rand(2, 3, 3, generator=generator)
    first, last = 0.1 + 0.2 * torch.rand(2, 3, 1, generator=generator)
    return RoundCone(start, axis + 0.3, first, last)


def test_measured_together_as_measured_one_by_one():
    generator = torch.Generator().manual_seed(0)
    one, two, three = (random_cone(generator) for _ in range(3))
    place = torch.randn(3, 3, 200, generator=generator).unbind(0)  # each [3, 200]
    together = RoundCones({"pair": [one, two], "alone": [three]}).distances(place)

    def alone(cone: RoundCone) -> torch.Tensor:
        offset = tuple(axis - cone.start[:, i : i + 1] for i, axis in enumerate(place))
        return round_cone_distance(offset, *cone[1:])

    torch.testing.assert_close(together["pair"], torch.minimum(alone(one), alone(two)))
    torch.testing.assert_close(together["alone"], alone(three))


def test_many_points_are_measured_like_few():
    generator = torch.Generator().manual_seed(2)
    cones = RoundCones({"one": [random_cone(generator)], "two": [random_cone(generator)]})
    place = torch.randn(3, 3, 60000, generator=generator)
    few = cones.distances(place[..., -7:].unbind(0))
    for name, distance in cones.distances(place.unbind(0)).items():
        assert distance.shape == (3, 60000)
        torch.testing.assert_close(distance[:, -7:], few[name])


def test_ball_is_a_round_cone_of_no_length():
    center, radius = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[0.25]])
    place = torch.randn(3, 1, 100, generator=torch.Generator().manual_seed(1)).unbind(0)
    offset = tuple(axis - center[:, i : i + 1] for i, axis in enumerate(place))
    distance = RoundCones({"ball": [ball(center, radius)]}).distances(place)["ball"]
    torch.testing.assert_close(distance, sphere_distance(offset, radius))
