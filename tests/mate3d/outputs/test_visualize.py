"""Grids and colourings of tensors."""

import numpy as np
import torch

from mate3d.labels import CATMASK_HQ
from mate3d.outputs import visualize


def test_grid_places_images_row_by_row():
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    grid = visualize.make_image_grid(images, columns=2)
    assert grid.shape == (1, 4, 4)
    assert grid[0, ::2, ::2].tolist() == [[0.0, 1.0], [2.0, -1.0]]


def test_depth_colors_span_near_to_far_and_fade_with_opacity():
    depth = torch.tensor([2.0, 3.0, 9.0]).view(1, 1, 1, 3)
    colors = visualize.colorize_depth(depth, near=2.0, far=3.0)
    assert colors.shape == (1, 3, 1, 3)
    assert colors[..., 0].sum() > colors[..., 1].sum()
    torch.testing.assert_close(colors[..., 1], colors[..., 2])
    empty = visualize.colorize_depth(depth, near=2.0, far=3.0, opacity=torch.zeros(1, 1, 1, 3))
    assert bool((empty == -1).all())


def test_segmentation_takes_the_palette_color_of_its_best_class():
    segmentation = torch.zeros(1, 6, 1, 1)
    segmentation[0, 2] = 1
    color = visualize.to_uint8(visualize.colorize_segmentation(segmentation, CATMASK_HQ))
    assert np.abs(color.reshape(3).astype(int) - np.array(CATMASK_HQ.palette[2])).max() <= 1


def test_eight_bit_levels_follow_the_lineage():
    levels = visualize.to_uint8(torch.tensor([-2.0, -1.0, 0.0, 1.0]).view(1, 1, 4))
    assert levels[0, :, 0].tolist() == [0, 0, 128, 255]


def test_distance_colors_tell_inside_from_outside_and_draw_the_zero_level():
    ramp = torch.linspace(-1, 1, 8).view(1, 1, 1, 8).expand(1, 1, 3, 8)
    colors = visualize.colorize_distance(ramp, scale=1.0)
    assert colors.shape == (1, 3, 3, 8)
    red, blue = colors[0, 0], colors[0, 2]
    assert bool((colors[..., 3] == -1).all())
    assert bool((blue[:, :3] > red[:, :3]).all())
    assert bool((blue[:, 4:] < red[:, 4:]).all())


def test_outline_of_another_distance_is_grey_and_distances_that_are_not_finite_black():
    distance = torch.full((1, 1, 1, 5), 0.3)
    distance[..., 4] = torch.nan
    outline = torch.tensor([1.0, -1.0, -1.0, -1.0, -1.0]).view(1, 1, 1, 5)
    plain, lined, *_, bad = visualize.colorize_distance(distance, scale=1.0, outline=outline)[
        0, 0, 0, [1, 0, 4]
    ]
    assert -1 < lined < plain
    assert bad == -1
