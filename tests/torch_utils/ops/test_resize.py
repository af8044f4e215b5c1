"""Resizing and blur by their properties; recorded numbers are in test_golden_ops."""

import torch

from torch_utils.ops.blur import blur_image, blur_taps
from torch_utils.ops.resize import resize_antialias


def test_shrinking_with_antialias_averages():
    image = torch.arange(2.0).repeat(8)[None, None, None].expand(1, 1, 16, 16)
    y = resize_antialias(image, 2)
    torch.testing.assert_close(y, torch.full_like(y, 0.5), atol=0.02, rtol=0)


def test_blur_halves_a_tap_at_sigma_and_a_narrow_one_changes_nothing():
    taps = blur_taps(2.0)
    assert len(taps) == 13
    torch.testing.assert_close(taps.sum(), torch.tensor(1.0))
    torch.testing.assert_close(taps[6 + 2], taps[6] / 2)
    image = torch.randn(1, 1, 4, 4)
    assert blur_image(image, 0.0) is image
