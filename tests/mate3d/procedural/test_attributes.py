"""Attributes: declared with a range, set and multiplied, and drawn from latents."""

from dataclasses import fields

import pytest
import torch

from mate3d.errors import UserError
from mate3d.procedural.attributes import attribute_rows, set_attributes, uniforms_from_latent
from mate3d.procedural.cats.cat import CatParameters, cat_parameters_from_latent
from mate3d.procedural.cats.varied_cat import varied_cat_parameters_from_latent
from mate3d.procedural.people.person import person_parameters_from_latent
from tests.mate3d.fields import latents


@pytest.fixture(scope="module")
def cats() -> CatParameters:
    return cat_parameters_from_latent(latents(3))


def test_set_values_reach_every_portrait_and_leave_the_others_alone(cats):
    changed = set_attributes(cats, {"ear_size": 1.2, "eye_color": [0.1, 0.2, 0.3]})
    torch.testing.assert_close(changed.ear_size, torch.full((3,), 1.2))
    torch.testing.assert_close(changed.eye_color, torch.tensor([[0.1, 0.2, 0.3]]).expand(3, 3))
    for name in set(vars(cats)) - {"ear_size", "eye_color"}:
        assert torch.equal(getattr(changed, name), getattr(cats, name)), name


def test_factors_multiply_after_values_and_may_leave_the_range(cats):
    changed = set_attributes(cats, {"ear_size": 1.2}, {"ear_size": 1.5, "eye_size": 0.5})
    torch.testing.assert_close(changed.ear_size, torch.full((3,), 1.8))
    torch.testing.assert_close(changed.eye_size, cats.eye_size * 0.5)


def test_multiplied_shares_stop_at_one(cats):
    assert (set_attributes(cats, {"tabby": 0.8}, {"tabby": 2.0}).tabby == 1).all()


@pytest.mark.parametrize(
    ("values", "factors", "named"),
    [
        ({"ear_sise": 1.0}, None, "'ear_sise'.*ear_size"),
        (None, {"whiskers": 2.0}, "'whiskers'"),
        ({"ear_size": 2.0}, None, r"ear_size=2.0.*0.7\.\.1.35"),
        ({"ear_size": float("nan")}, None, "ear_size=nan"),
        ({"ear_size": "big"}, None, "ear_size=big"),
        ({"ear_size": [1.0, 1.0, 1.0]}, None, "ear_size"),
        ({"fur_color": 0.5}, None, "fur_color=0.5"),
        ({"fur_color": [0.5, 0.5, 1.5]}, None, "fur_color"),
        (None, {"ear_size": 0.0}, "ear_size=0.0"),
        (None, {"ear_size": float("inf")}, "ear_size=inf"),
        (None, {"fur_color": 1.1}, "fur_color"),
    ],
)
def test_mistakes_are_named(cats, values, factors, named):
    with pytest.raises(UserError, match=named):
        set_attributes(cats, values, factors)


def test_rows_hold_plain_numbers_that_can_be_set_again(cats):
    rows = attribute_rows(cats)
    assert len(rows) == 3 and list(rows[0]) == list(vars(cats))
    assert isinstance(rows[1]["ear_size"], float) and len(rows[1]["fur_color"]) == 3
    again = set_attributes(cats[:1], {name: rows[1][name] for name in vars(cats)})
    for name in vars(cats):
        assert torch.equal(getattr(again, name)[0], getattr(cats, name)[1]), name


def test_uniforms_are_uniform_and_independent():
    z = latents(20000, seed=1)
    uniforms = uniforms_from_latent(z, 30, seed=3)
    levels = torch.tensor([0.1, 0.5, 0.9])
    quantiles = uniforms.quantile(levels, dim=0)
    torch.testing.assert_close(quantiles, levels[:, None].expand(3, 30), rtol=0, atol=0.02)
    assert (torch.corrcoef(uniforms.T) - torch.eye(30)).abs().max() < 0.04


def test_too_short_latents_are_a_mistake():
    with pytest.raises(UserError, match="8 .*22"):
        cat_parameters_from_latent(torch.zeros(1, 8))


MAPS = pytest.mark.parametrize(
    ("parameters_from_latent", "largest_step"),
    [
        (cat_parameters_from_latent, 0.025),
        (varied_cat_parameters_from_latent, 0.1),
        (person_parameters_from_latent, 0.1),
    ],
    ids=["cat", "varied cat", "person"],
)


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
