"""Changes of colour against their definitions and against `colorsys`."""

import colorsys

import pytest
import torch

from torch_utils.batch_random import BatchRandom
from training.augmentation.color import draw_recoloring, recolor
from training.augmentation.dice import Dice
from training.augmentation.settings import AugmentSettings

NUM_SAMPLES = 2000
QUIET = {
    "brightness": 0.0,
    "contrast_octaves": 0.0,
    "hue_degrees": 0.0,
    "saturation_octaves": 0.0,
}


def matrices(probability: float, **options: float) -> torch.Tensor:  # [B, 4, 4]
    settings = AugmentSettings(mode="fixed", **options)
    return draw_recoloring(settings, Dice(BatchRandom((3,), range(NUM_SAMPLES)), probability))


def unflipped(values: torch.Tensor) -> torch.Tensor:
    """Leave out samples whose lightness was inverted: white became darker than black."""
    return values[values[:, :3, :3].sum(dim=(1, 2)) > 0]


def image(*color: float) -> torch.Tensor:  # [1, 3, 1, 1]
    return torch.tensor(color).view(1, 3, 1, 1)


def test_half_of_the_lightness_flips_invert_grey_and_keep_hue():
    values = matrices(1.0, **QUIET)
    flipped = values[values[:, :3, :3].sum(dim=(1, 2)) < 0]
    assert len(flipped) / NUM_SAMPLES == pytest.approx(0.5, abs=0.04)
    torch.testing.assert_close(
        recolor(image(0.5, 0.5, 0.5), flipped[:1]), image(-0.5, -0.5, -0.5), atol=1e-6, rtol=0
    )
    # A colour without lightness keeps hue and saturation.
    torch.testing.assert_close(
        recolor(image(0.4, -0.2, -0.2), flipped[:1]), image(0.4, -0.2, -0.2), atol=1e-6, rtol=0
    )


def test_brightness_is_added_to_all_colors():
    values = unflipped(matrices(1.0, **QUIET | {"brightness": 0.2}))
    changed = recolor(torch.zeros(len(values), 3, 1, 1), values)
    assert float(changed[:, 0].std()) == pytest.approx(0.2, abs=0.02)
    torch.testing.assert_close(changed, changed[:, :1].expand(-1, 3, -1, -1), atol=1e-6, rtol=0)


def test_contrast_scales_about_middle_grey():
    values = unflipped(matrices(1.0, **QUIET | {"contrast_octaves": 0.5}))
    assert recolor(torch.zeros(len(values), 3, 1, 1), values).abs().max() < 1e-6
    factors = recolor(torch.ones(len(values), 3, 1, 1), values)[:, 0].log2()
    assert float(factors.std()) == pytest.approx(0.5, abs=0.03)


def test_hue_turns_keep_grey_and_reach_all_hues():
    values = unflipped(matrices(1.0, **QUIET | {"hue_degrees": 180.0}))
    grey = recolor(torch.full((len(values), 3, 1, 1), 0.3), values)
    torch.testing.assert_close(grey, torch.full_like(grey, 0.3), atol=1e-5, rtol=0)
    reds = recolor(
        torch.tensor([0.5, -0.5, -0.5]).view(1, 3, 1, 1).expand(len(values), -1, 1, 1), values
    )
    hues = torch.tensor([colorsys.rgb_to_hsv(*rgb)[0] for rgb in (reds[..., 0, 0] + 1).tolist()])
    assert torch.histc(hues, 6, 0, 1).min() > len(values) / 10


def test_third_of_a_hue_turn_exchanges_colors():
    values = matrices(1.0, **QUIET | {"hue_degrees": 120.0})
    # The largest turn is nearly 120 degrees: red becomes green or blue.
    turned = recolor(
        torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(NUM_SAMPLES, -1, 1, 1), values
    )
    assert float(turned[:, 1].max()) == pytest.approx(1, abs=0.01)
    assert float(turned[:, 2].max()) == pytest.approx(1, abs=0.01)


def test_saturation_moves_colors_from_their_grey():
    values = unflipped(matrices(1.0, **QUIET | {"saturation_octaves": 1.0}))
    colors = torch.tensor([0.6, 0.0, -0.3]).view(1, 3, 1, 1).expand(len(values), -1, 1, 1)
    changed = recolor(colors, values)
    torch.testing.assert_close(
        changed.mean(dim=1), torch.full((len(values), 1, 1), 0.1), atol=1e-5, rtol=0
    )
    assert float(((changed[:, 0] - 0.1) / 0.5).log2().std()) == pytest.approx(1, abs=0.06)


def test_each_change_takes_place_with_the_probability():
    values = unflipped(matrices(0.3, **QUIET | {"brightness": 0.2}))
    share = values[:, 0, 3].abs().gt(1e-6).float().mean()
    assert float(share) == pytest.approx(0.3, abs=0.04)


def test_recoloring_is_exact_under_autocast():
    values, colors = matrices(1.0)[:4], torch.rand(4, 3, 8, 8)
    expected = recolor(colors, values)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(recolor(colors, values), expected, atol=0, rtol=0)
