"""Regions of points in 3D."""

import pytest
import torch

from editing.regions import (
    ClassRegion,
    PaintedRegion,
    everywhere,
    reachable_points,
)
from mate3d.cameras import make_camera
from mate3d.rendering.rays import sample_rays

# Two classes that meet in the plane x = 0: class 0 on the left, class 1 on the right.
POINTS = torch.tensor([[[-0.3, 0.0, 0.0], [-0.05, 0.0, 0.0], [0.05, 0.0, 0.0], [0.3, 0.0, 0.0]]])
CLASS_SDF = torch.cat([POINTS[..., :1], -POINTS[..., :1]], dim=-1)


def shares(region, source=CLASS_SDF, edited=CLASS_SDF):
    return region(POINTS, source, edited)[0, :, 0].tolist()


def test_region_is_the_class_of_either_copy_with_an_edge_of_known_width():
    assert shares(ClassRegion((1,))) == [0, 0, 1, 1]
    assert shares(ClassRegion((1,)), edited=-CLASS_SDF) == [1, 1, 1, 1]
    assert shares(ClassRegion(())) == [0, 0, 0, 0]
    assert shares(ClassRegion((1,), dilation=0.1)) == [0, 1, 1, 1]
    assert shares(ClassRegion((1,), dilation=-0.1)) == [0, 0, 0, 1]
    assert shares(ClassRegion((1,), softness=0.2)) == pytest.approx([0, 0.25, 0.75, 1])


def test_painted_region_adds_the_frustum_of_repainted_pixels():
    camera = make_camera(0.3, 0.1)
    repainted = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    repainted[0, 0, 1, 2] = True
    region = PaintedRegion(ClassRegion(()), camera, repainted)
    origins, directions = sample_rays(camera, 4)
    for depth in (2.4, 3.0):
        points = origins + depth * directions
        share = region(points, torch.zeros(1, 16, 2), torch.zeros(1, 16, 2))
        assert torch.equal(share.view(1, 1, 4, 4) > 0, repainted)


def test_region_ends_at_its_reach_from_the_source():
    points = torch.zeros(1, 3, 3)
    # The first class is nearest everywhere, at 0.01, 0.05 and 0.2 world units.
    class_sdf = torch.tensor([[[0.01, 1.0], [0.05, 1.0], [0.2, 1.0]]])
    share = ClassRegion((0,), reach=0.03)(points, class_sdf, class_sdf)
    assert share.flatten().tolist() == [1, 0, 0]
    camera, repainted = make_camera(0.0), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    share = PaintedRegion(ClassRegion(()), camera, repainted, 0.1)(points, class_sdf, class_sdf)
    assert share.flatten().tolist() == [1, 1, 0]


@pytest.mark.parametrize("painted", [False, True])
@pytest.mark.parametrize("reach", [None, 0.1, -0.1])
def test_no_copy_takes_a_region_beyond_what_is_reachable(painted, reach):
    draw = torch.Generator().manual_seed(0)
    points = torch.rand(1, 2000, 3, generator=draw) * 0.6 - 0.3
    source = torch.randn(1, 2000, 4, generator=draw) * 0.3
    region = ClassRegion((1, 2), dilation=0.05, softness=0.1, reach=reach)
    if painted:
        repainted = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
        repainted[..., 4:9, 4:9] = True
        region = PaintedRegion(region, make_camera(0.2), repainted, reach)
    reachable = reachable_points(region, points, source)
    shares = [
        region(points, source, torch.randn(1, 2000, 4, generator=draw))[..., 0] for _ in range(20)
    ]
    largest = torch.stack(shares).amax(dim=0)
    assert not largest[~reachable].any()
    assert reachable_points(everywhere, points, source).all()
    # The bound is tight: almost every reachable point is taken by one copy or another.
    assert (largest[reachable] > 0).float().mean() > 0.95
