"""Tests of people's attributes and of the map from latents to them."""

from dataclasses import fields

import pytest
import torch

from mate3d.errors import UserError
from mate3d.procedural.attributes import color_name, set_attributes
from mate3d.procedural.people.person import (
    HAIR_PALETTE,
    NUM_PERSON_ATTRIBUTES,
    SKIN_PALETTE,
    PersonParameters,
    average_person,
    person_parameters_from_latent,
    person_parameters_from_uniforms,
)


def test_same_latent_gives_same_person_in_any_batch():
    z = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    batch, alone = person_parameters_from_latent(z), person_parameters_from_latent(z[3:4])
    for name, value in vars(batch).items():
        torch.testing.assert_close(value[3:4], getattr(alone, name), rtol=0, atol=1e-5)


def test_every_number_stays_in_the_range_it_may_be_set_to():
    uniforms = torch.rand(
        500, NUM_PERSON_ATTRIBUTES, generator=torch.Generator().manual_seed(1)
    ).round(decimals=1)
    parameters = person_parameters_from_uniforms(uniforms)
    for declared in fields(PersonParameters):
        value = getattr(parameters, declared.name)
        assert value.isfinite().all(), declared.name
        assert value.min() >= declared.metadata["low"] - 1e-6, declared.name
        assert value.max() <= declared.metadata["high"] + 1e-6, declared.name


def test_every_attribute_varies_among_people():
    z = torch.randn(200, 64, generator=torch.Generator().manual_seed(2))
    for name, value in vars(person_parameters_from_latent(z)).items():
        assert value.std(dim=0).max() > 0.01, name


def test_uniforms_must_be_as_many_as_the_attributes():
    with pytest.raises(AssertionError):
        person_parameters_from_uniforms(torch.rand(2, NUM_PERSON_ATTRIBUTES + 1))


def test_hats_glasses_beards_and_bald_heads_are_a_minority():
    z = torch.randn(2000, 64, generator=torch.Generator().manual_seed(3))
    p = person_parameters_from_latent(z)
    shares = {name: (getattr(p, name) > 0.5).float().mean() for name in ("hat", "glasses", "beard")}
    assert all(0.05 < share < 0.4 for share in shares.values()), shares
    assert 0.02 < (p.hair < 0.5).float().mean() < 0.1
    # Shares between absent and present are rare.
    for name in ("hat", "glasses", "beard"):
        between = (getattr(p, name) > 0) & (getattr(p, name) < 1)
        assert between.float().mean() < 0.04


def test_hair_colours_suit_the_skin():
    z = torch.randn(4000, 64, generator=torch.Generator().manual_seed(5))
    people = person_parameters_from_latent(z)
    hairs = [color_name(color, HAIR_PALETTE) for color in people.hair_color]
    skins = [color_name(color, SKIN_PALETTE) for color in people.skin_color]

    def share(skin: tuple[str, ...], hair: tuple[str, ...]) -> float:
        chosen = [h for h, s in zip(hairs, skins, strict=True) if s in skin]
        return sum(h in hair for h in chosen) / len(chosen)

    assert share(("deep", "brown"), ("black", "dark brown")) > 0.7
    assert 0.005 < share(("deep", "brown"), ("red", "blonde")) < 0.08
    assert share(("light", "fair"), ("red", "blonde")) > 0.25
    assert all(share(("light", "fair"), (name,)) > 0.04 for name in HAIR_PALETTE)


def test_attributes_are_continuous_in_the_latent():
    start, end = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(4))
    path = torch.lerp(start, end, torch.linspace(0, 1, 8001)[:, None])
    for name, value in vars(person_parameters_from_latent(path)).items():
        assert value.diff(dim=0).abs().max() < 0.1, name


def test_average_person_has_every_factor_at_one():
    p = average_person(2)
    assert len(p) == 2
    for declared in fields(PersonParameters):
        low, high = declared.metadata["low"], declared.metadata["high"]
        if declared.metadata["size"] == 1 and 0 < low < 1 < high:
            assert (getattr(p, declared.name) == 1).all(), declared.name


def test_setting_an_unknown_attribute_or_value_is_refused():
    with pytest.raises(UserError, match="unknown attribute 'tail'.*ear_size"):
        set_attributes(average_person(), {"tail": 1.0})
    with pytest.raises(UserError, match=r"ear_size=3.0 must be a number in 0\.7\.\.1\.6"):
        set_attributes(average_person(), {"ear_size": 3.0})
