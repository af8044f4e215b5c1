"""Tests of the maps from latents to attributes of cats and people."""

from dataclasses import fields

import pytest
import torch

from mate3d.procedural.cats.cat import cat_parameters_from_latent
from mate3d.procedural.cats.varied_cat import varied_cat_parameters_from_latent
from mate3d.procedural.people.person import person_parameters_from_latent

MAPS = pytest.mark.parametrize(
    ("parameters_from_latent", "largest_step"),
    [
        (cat_parameters_from_latent, 0.025),
        (varied_cat_parameters_from_latent, 0.1),
        (person_parameters_from_latent, 0.1),
    ],
    ids=["cat", "varied cat", "person"],
)


def latents(num: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, 64, generator=torch.Generator().manual_seed(seed))


@MAPS
def test_attributes_vary_within_their_range_and_do_not_depend_on_the_batch(
    parameters_from_latent, largest_step
):
    z = latents(300)
    batch, alone = parameters_from_latent(z), parameters_from_latent(z[3:4])
    for declared in fields(batch):
        name, metadata = declared.name, declared.metadata
        value = getattr(batch, name)
        torch.testing.assert_close(value[3:4], getattr(alone, name), rtol=0, atol=1e-5)
        assert value.min() >= metadata["low"] - 1e-5, name
        assert value.max() <= metadata["high"] + 1e-5, name
        if parameters_from_latent is not cat_parameters_from_latent or metadata["neutral"] is None:
            assert value.std(dim=0).max() > 0.01, name


@MAPS
def test_attributes_are_continuous_in_the_latent(parameters_from_latent, largest_step):
    start, end = latents(2, seed=2)[:, None]
    path = torch.lerp(start, end, torch.linspace(0, 1, 8001)[:, None])
    for name, value in vars(parameters_from_latent(path)).items():
        assert value.diff(dim=0).abs().max() < largest_step, name


def test_at_most_one_pattern_is_present():
    parameters = cat_parameters_from_latent(latents(300, seed=3))
    strengths = torch.stack([parameters.tabby, parameters.bicolor, parameters.spots])
    assert ((strengths > 0).sum(dim=0) <= 1).all()
    assert ((strengths > 0.5).any(dim=1)).all()
    assert (strengths.amax(dim=0) == 0).any()
