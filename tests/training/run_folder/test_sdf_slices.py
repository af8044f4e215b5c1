"""Slices are cut where and shown as the documentation says."""

import torch

from mate3d.labels import LabelSet
from tests.mate3d.fields import PartsField, ball
from training.run_folder.sdf_slices import draw_sdf_slices, slice_points

TWO_PARTS = LabelSet(
    "test", ("empty", "head", "ear"), ((0, 0, 0), (200, 30, 30), (30, 200, 30)), version=1
)


def head_with_ear():
    return PartsField((ball(0.2), ball(0.05, (0.3, 0.25, -0.1))))


def draw(field, resolution=32):
    picture = draw_sdf_slices(field, TWO_PARTS, box_size=1.0, resolution=resolution, scale=0.25)
    return ((picture + 1) * 127.5).round().to(torch.uint8)


def test_slices_are_seen_from_above_from_the_front_and_from_the_side():
    above, front, side = slice_points(torch.tensor([0.1, 0.2, 0.3]), 1.0, 4)
    torch.testing.assert_close(above[0, -1], torch.tensor([0.375, 0.2, -0.375]))
    torch.testing.assert_close(front[0, -1], torch.tensor([0.375, 0.375, 0.3]))
    torch.testing.assert_close(side[0, -1], torch.tensor([0.1, 0.375, 0.375]))


def test_sheet_holds_three_slices_of_the_whole_and_of_each_part():
    picture = draw(head_with_ear(), resolution=40)
    cell_width, cell_height = 3 * 40 + 4 * 4, 28 + 40 + 2 * 4
    assert picture.shape == (3, 2 * cell_height, 2 * cell_width)


def test_zero_level_of_a_ball_is_a_circle_of_its_radius():
    side = 96
    picture = draw(head_with_ear(), resolution=side)
    tile = picture[:, 4 + 28 : 4 + 28 + side, 4 : 4 + side]
    rows, columns = torch.nonzero((tile == 0).all(dim=0), as_tuple=True)
    middle = (side - 1) / 2
    distances = torch.hypot(rows - middle, columns - middle) / side
    assert len(rows) > 2 * 3.14 * 0.2 * side * 0.8
    assert float((distances - 0.2).abs().max()) < 2 / side


def test_part_off_the_middle_is_cut_through_its_inside():
    side = 48
    picture = draw(head_with_ear(), resolution=side)
    cell_width, cell_height = 3 * side + 4 * 4, 28 + side + 2 * 4
    ear = picture[:, cell_height + 4 + 28 :, cell_width + 4 :]
    for index in range(3):
        tile = ear[:, :side, index * (side + 4) : index * (side + 4) + side]
        assert bool((tile[2].int() - tile[0].int() > 20).any()), index
        assert bool((tile == 0).all(dim=0).any()), index


def test_part_that_is_nowhere_is_cut_at_the_middle():
    side = 48
    picture = draw(head_with_ear(), resolution=side)
    cell_width = 3 * side + 4 * 4
    tile = picture[:, 4 + 28 : 4 + 28 + side, cell_width + 4 : cell_width + 4 + side].int()
    grey = (tile != tile[:, :1, :1]).any(dim=0)
    rows, columns = torch.nonzero(grey, as_tuple=True)
    middle = (side - 1) / 2
    distances = torch.hypot(rows - middle, columns - middle) / side
    assert float((distances - 0.2).abs().max()) < 2 / side
