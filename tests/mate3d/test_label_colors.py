"""Colours of masks and the classes that they stand for."""

import numpy as np
from PIL import Image

from mate3d.label_colors import look_up_colors, look_up_indices
from mate3d.labels import CELEBAMASK_HQ

PALETTE = CELEBAMASK_HQ.palette


def test_colours_of_the_palette_have_their_place_and_others_are_unknown():
    ids = np.arange(19, dtype=np.uint8)[None]
    found, is_known = look_up_colors(np.array(PALETTE, np.uint8)[ids], PALETTE)
    assert (found == ids).all() and is_known.all() and found.dtype == np.uint8
    others = np.array([[(1, 2, 3), (255, 255, 254), PALETTE[5]]], np.uint8)
    found, is_known = look_up_colors(others, PALETTE)
    assert is_known.tolist() == [[False, False, True]] and found[0, 2] == 5


def test_indices_are_told_by_their_colours_as_far_as_they_are_used():
    image = Image.fromarray(np.array([[0, 1, 200]], np.uint8), mode="P")
    image.putpalette([*PALETTE[4], *PALETTE[2], *PALETTE[3]])
    assert look_up_indices(image, PALETTE) == {0: 4, 1: 2, 200: None}
    assert look_up_indices(image, ()) == {0: None, 1: None, 200: None}
