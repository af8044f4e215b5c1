"""Changes of colour against their definitions and against `colorsys`."""

import colorsys

import pytest
import torch

from torch_utils.batch_random import BatchRandom
from training.augmentation.color import draw_recoloring, recolor
from training.augmentation.dice import Dice
from training.augmentation.settings import AugmentSettings

NUM_SAMPLES = 2000
QUIET = dict.fromkeys(("brightness", "contrast_octaves", "hue_degrees", "saturation_octaves"), 0.0)


def matrices(probability: float, **options: float) -> torch.Tensor:  # [B, 4, 4]
    settings = AugmentSettings(mode="fixed", **QUIET | options)
    return draw_recoloring(settings, Dice(BatchRandom((3,), range(NUM_SAMPLES)), probability))


def unflipped(values: torch.Tensor) -> torch.Tensor:
    """Leave out samples whose lightness was inverted: white became darker than black."""
    return values[values[:, :3, :3].sum(dim=(1, 2)) > 0]


def recolored(values: torch.Tensor, *color: float) -> torch.Tensor:  # [B, 3]
    pixel = torch.tensor(color).view(1, 3, 1, 1).expand(len(values), -1, 1, 1)
    return recolor(pixel, values)[..., 0, 0]


def test_half_of_the_lightness_flips_invert_grey_and_keep_hue():
    values = matrices(1.0)
    flipped = values[values[:, :3, :3].sum(dim=(1, 2)) < 0]
    assert len(flipped) / NUM_SAMPLES == pytest.approx(0.5, abs=0.04)
    assert recolored(flipped[:1], 0.5, 0.5, 0.5)[0].tolist() == pytest.approx([-0.5] * 3)
    # A colour without lightness keeps hue and saturation.
    assert recolored(flipped[:1], 0.4, -0.2, -0.2)[0].tolist() == pytest.approx([0.4, -0.2, -0.2])


def test_brightness_is_added_to_all_colors_with_the_probability():
    changed = recolored(unflipped(matrices(1.0, brightness=0.2)), 0.0, 0.0, 0.0)
    assert float(changed[:, 0].std()) == pytest.approx(0.2, abs=0.02)
    torch.testing.assert_close(changed, changed[:, :1].expand(-1, 3), atol=1e-6, rtol=0)
    changed = recolored(unflipped(matrices(0.3, brightness=0.2)), 0.0, 0.0, 0.0)
    share = changed[:, 0].abs().gt(1e-6).float().mean()
    assert float(share) == pytest.approx(0.3, abs=0.04)


def test_contrast_scales_about_middle_grey():
    values = unflipped(matrices(1.0, contrast_octaves=0.5))
    assert recolored(values, 0.0, 0.0, 0.0).abs().max() < 1e-6
    factors = recolored(values, 1.0, 1.0, 1.0)[:, 0].log2()
    assert float(factors.std()) == pytest.approx(0.5, abs=0.03)


def test_hue_turns_keep_grey_and_reach_all_hues():
    values = unflipped(matrices(1.0, hue_degrees=180.0))
    grey = recolored(values, 0.3, 0.3, 0.3)
    torch.testing.assert_close(grey, torch.full_like(grey, 0.3), atol=1e-5, rtol=0)
    reds = recolored(values, 0.5, -0.5, -0.5)
    hues = torch.tensor([colorsys.rgb_to_hsv(*rgb)[0] for rgb in (reds + 1).tolist()])
    assert torch.histc(hues, 6, 0, 1).min() > len(values) / 10
    # The largest turn is nearly a third: red becomes green or blue.
    turned = recolored(matrices(1.0, hue_degrees=120.0), 1.0, 0.0, 0.0)
    assert turned[:, 1:].amax(dim=0).tolist() == pytest.approx([1, 1], abs=0.01)


def test_saturation_moves_colors_from_their_grey():
    changed = recolored(unflipped(matrices(1.0, saturation_octaves=1.0)), 0.6, 0.0, -0.3)
    torch.testing.assert_close(
        changed.mean(dim=1), torch.full((len(changed),), 0.1), atol=1e-5, rtol=0
    )
    assert float(((changed[:, 0] - 0.1) / 0.5).log2().std()) == pytest.approx(1, abs=0.06)


def test_recoloring_is_exact_under_autocast():
    values, colors = matrices(1.0, hue_degrees=180.0)[:4], torch.rand(4, 3, 8, 8)
    expected = recolor(colors, values)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(recolor(colors, values), expected, atol=0, rtol=0)
