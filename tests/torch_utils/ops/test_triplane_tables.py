"""Prepared look-ups against `triplane_sample`, which has its own references."""

import pytest
import torch

from mate3d.rendering.triplane import PLANE_AXES, look_up_planes
from torch_utils.ops.triplane_tables import find_corners, look_up, make_table


@pytest.mark.parametrize("layout", sorted(PLANE_AXES))
def test_look_up_is_triplane_sample_inside_at_the_border_and_outside(layout):
    random = torch.Generator().manual_seed(0)
    planes = torch.randn(2, 3, 5, 6, 9, generator=random)
    points = torch.rand(2, 200, 3, generator=random) * 3 - 1.5
    points[:, 0] = torch.tensor([1e9, -1e9, 1e9])
    points[:, 1] = torch.tensor([1.0, -1.0, 1.0])
    corners = find_corners(points, PLANE_AXES[layout], planes.shape[-2:])
    values = look_up(make_table(planes), corners).view(2, 200, 5)
    torch.testing.assert_close(values, look_up_planes(planes, points, 2.0, layout))
    assert values[:, 0].abs().max() == 0 and values[:, 1].abs().max() > 0


def test_corners_of_some_points_look_these_up():
    planes, points = torch.randn(1, 3, 4, 8, 8), torch.rand(1, 50, 3) * 2 - 1
    corners = find_corners(points, PLANE_AXES["xy_xz_yz"], (8, 8))
    table, chosen = make_table(planes), torch.tensor([3, 7, 49])
    assert torch.equal(look_up(table, corners.take(chosen)), look_up(table, corners)[chosen])


def test_no_points_are_no_features():
    corners = find_corners(torch.zeros(1, 0, 3), PLANE_AXES["xy_xz_yz"], (8, 8))
    assert look_up(torch.randn(192, 4), corners).shape == (0, 4)


def test_table_that_an_int32_cannot_address_is_refused():
    points = torch.zeros(1, 1, 3)
    with pytest.raises(ValueError, match="1 heads of 32768 x 32768 pixels are too many"):
        find_corners(points, PLANE_AXES["xy_xz_yz"], (32768, 32768))
