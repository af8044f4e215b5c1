"""Tests of the cats' attributes and of the map from latents to them."""

import torch

from mate3d.procedural.cats.cat import (
    NUM_CAT_ATTRIBUTES,
    cat_parameters_from_latent,
    cat_parameters_from_uniforms,
)


def test_same_latent_gives_same_cat_in_any_batch():
    z = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    batch, alone = cat_parameters_from_latent(z), cat_parameters_from_latent(z[3:4])
    for name, value in vars(batch).items():
        torch.testing.assert_close(value[3:4], getattr(alone, name), rtol=0, atol=1e-6)


def test_colors_and_strengths_stay_in_unit_range():
    uniforms = torch.rand(
        500, NUM_CAT_ATTRIBUTES, generator=torch.Generator().manual_seed(1)
    ).round(decimals=1)
    parameters = cat_parameters_from_uniforms(uniforms)
    for name, value in vars(parameters).items():
        assert value.isfinite().all(), name
        if name.endswith("color") or name in ("tabby", "bicolor", "spots", "chin"):
            assert value.min() >= 0 and value.max() <= 1, name


def test_attributes_are_continuous_in_the_latent():
    start, end = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(2))
    path = torch.lerp(start, end, torch.linspace(0, 1, 4001)[:, None])
    parameters = cat_parameters_from_latent(path)
    for name, value in vars(parameters).items():
        assert value.diff(dim=0).abs().max() < 0.05, name


def test_at_most_one_pattern_is_present():
    z = torch.randn(300, 64, generator=torch.Generator().manual_seed(3))
    parameters = cat_parameters_from_latent(z)
    strengths = torch.stack([parameters.tabby, parameters.bicolor, parameters.spots])
    assert ((strengths > 0).sum(dim=0) <= 1).all()
    assert ((strengths > 0.5).any(dim=1)).all()
    assert (strengths.amax(dim=0) == 0).any()


def test_pattern_shows_on_nearly_every_patterned_cat():
    """A continuous palette crosses the fur's own colour somewhere, so a few per cent may not."""
    z = torch.randn(1000, 64, generator=torch.Generator().manual_seed(4))
    parameters = cat_parameters_from_latent(z)
    strength = torch.stack([parameters.tabby, parameters.bicolor, parameters.spots]).amax(dim=0)
    difference = (parameters.second_color - parameters.fur_color).norm(dim=-1)
    assert torch.quantile(difference[strength > 0.5], 0.03) > 0.1
