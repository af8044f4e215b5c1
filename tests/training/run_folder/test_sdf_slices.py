"""Slices are cut where and shown as the documentation says."""

import pytest
import torch

from mate3d.labels import LabelSet
from tests.mate3d.fields import PartsField, ball
from training.run_folder.sdf_slices import draw_sdf_slices, slice_points

TWO_PARTS = LabelSet(
    "test", ("empty", "head", "ear"), ((0, 0, 0), (200, 30, 30), (30, 200, 30)), version=1
)


SIDE = 48
# Cells of three tiles, below two lines of text, with a gap around each.
CELL_WIDTH, CELL_HEIGHT, TOP, GAP = 3 * SIDE + 4 * 4, 28 + SIDE + 2 * 4, 28 + 4, 4


@pytest.fixture(scope="module")
def picture():
    """The sheet of a head with an ear: the whole, nothing, the head, the ear."""
    field = PartsField((ball(0.2), ball(0.05, (0.3, 0.25, -0.1))))
    sheet = draw_sdf_slices(field, TWO_PARTS, box_size=1.0, resolution=SIDE, scale=0.25)
    return ((sheet + 1) * 127.5).round().to(torch.uint8)


def tile(picture, row, column, index=0):
    top, left = row * CELL_HEIGHT + TOP, column * CELL_WIDTH + GAP + index * (SIDE + GAP)
    return picture[:, top : top + SIDE, left : left + SIDE].int()


def distances_from_the_middle(mask):
    rows, columns = torch.nonzero(mask, as_tuple=True)
    middle = (SIDE - 1) / 2
    return torch.hypot(rows - middle, columns - middle) / SIDE


def test_slices_are_seen_from_above_from_the_front_and_from_the_side():
    above, front, side = slice_points(torch.tensor([0.1, 0.2, 0.3]), 1.0, 4)
    torch.testing.assert_close(above[0, -1], torch.tensor([0.375, 0.2, -0.375]))
    torch.testing.assert_close(front[0, -1], torch.tensor([0.375, 0.375, 0.3]))
    torch.testing.assert_close(side[0, -1], torch.tensor([0.1, 0.375, 0.375]))


def test_zero_level_of_a_ball_is_a_circle_of_its_radius(picture):
    assert picture.shape == (3, 2 * CELL_HEIGHT, 2 * CELL_WIDTH)
    distances = distances_from_the_middle((tile(picture, 0, 0) == 0).all(dim=0))
    assert len(distances) > 2 * 3.14 * 0.2 * SIDE * 0.8
    assert float((distances - 0.2).abs().max()) < 2 / SIDE


def test_part_off_the_middle_is_cut_through_its_inside(picture):
    for index in range(3):
        ear = tile(picture, 1, 1, index)
        assert bool((ear[2] - ear[0] > 20).any()), index
        assert bool((ear == 0).all(dim=0).any()), index


def test_part_that_is_nowhere_is_cut_at_the_middle(picture):
    nowhere = tile(picture, 0, 1)
    distances = distances_from_the_middle((nowhere != nowhere[:, :1, :1]).any(dim=0))
    assert float((distances - 0.2).abs().max()) < 2 / SIDE
