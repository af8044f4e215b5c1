"""Cats' distances and colours, the attributes that basic cats lack, and captions."""

import random
from dataclasses import fields, replace

import pytest
import torch

from mate3d.procedural.attributes import set_attributes
from mate3d.procedural.cats.captions import caption_cat, cat_words
from mate3d.procedural.cats.cat import (
    EYE_PALETTE,
    FUR_PALETTE,
    CatParameters,
    cat_parameters_from_latent,
)
from mate3d.procedural.cats.cat_field import CatField
from mate3d.procedural.cats.varied_cat import varied_cat_parameters_from_latent
from tests.mate3d.fields import gradient_norms, latents

NUM_CATS = 6
HIGHEST = {declared.name: declared.metadata["high"] for declared in fields(CatParameters)}
BLACK, WHITE = [0.1] * 3, [0.95, 0.94, 0.92]
# What each attribute may change: the ids of classes whose distances move; () is colour only.
SHAPES = {
    "ear_width": (2,),
    "ear_spacing": (2,),
    "ear_turn": (2,),
    "ear_fold": (2,),
    "ear_tufts": (2,),
    "eyelids": (1,),
    "head_height": (1,),
    "muzzle_length": (1, 4, 5),
    "pad_size": (1, 4, 5),
    "bridge_width": (1, 3, 4, 5),
    "nose_size": (5,),
    "nose_height": (4, 5),
    "smile": (4,),
    "tongue": (4,),
    "ruff": (1,),
    "mane": (1,),
    "fur_length": (1,),
    "points": (),
    "calico": (),
    "bib": (),
    "eye_patch": (),
    "odd_eyes": (),
    "iris_ring": (),
}


@pytest.fixture(scope="module")
def basic() -> CatParameters:
    return cat_parameters_from_latent(latents(NUM_CATS))


@pytest.fixture(scope="module")
def varied() -> CatParameters:
    return varied_cat_parameters_from_latent(latents(60, seed=1))


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(NUM_CATS, 3000, 3, generator=generator) * 0.7 - 0.35


def captions(cat: CatParameters) -> list[str]:
    """Return captions of the first cat."""
    return [caption_cat(cat, 0, random.Random(seed)) for seed in range(20)]


def test_class_distances_have_gradient_near_one(basic, points):
    field = CatField(basic)
    norms = gradient_norms(field.class_sdf, points)[..., 1:]
    # Smooth seams flatten distances in creases, so a few points are allowed to be lower.
    assert torch.quantile(norms.flatten(), 0.05) > 0.85
    assert torch.quantile(norms.flatten(), 0.995) < 1.2
    near = norms[field.class_sdf(points)[..., 1:].abs() < 0.02]
    assert (near - 1).abs().mean() < 0.06


def test_head_stays_inside_the_demo_box(basic, points):
    axis = points.abs().argmax(dim=-1, keepdim=True)
    on_box = points.scatter(2, axis, 0.35 * points.gather(2, axis).sign())
    assert CatField(basic).sdf(on_box).min() > 0


def test_mirrored_points_see_the_same_distances(basic, points):
    field = CatField(basic)
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(field.class_sdf(points), field.class_sdf(mirrored))


@pytest.mark.parametrize("name", SHAPES)
def test_attribute_changes_its_classes_and_no_others(basic, points, name):
    plain, changed = CatField(basic), CatField(set_attributes(basic, {name: HIGHEST[name]}))
    before, after = plain.sample(points), changed.sample(points)
    for class_id in range(6):
        difference = (before.class_sdf - after.class_sdf)[..., class_id].abs().max()
        if class_id in SHAPES[name]:
            assert difference > 1e-3, (class_id, difference)
        else:
            # Features sit on the skin and may follow it a little.
            assert difference <= (2e-3 if 1 in SHAPES[name] else 0), (class_id, difference)
    assert (before.features - after.features).abs().max() > 0.02


def test_slant_moves_lids_and_nothing_without_them(basic, points):
    slanted = set_attributes(basic, {"eye_slant": 0.5})
    open_eyes = CatField(basic).sample(points)
    assert torch.equal(open_eyes.class_sdf, CatField(slanted).class_sdf(points))
    lids = set_attributes(basic, {"eyelids": 0.5})
    before = CatField(lids).class_sdf(points)
    after = CatField(set_attributes(lids, {"eye_slant": 0.5})).class_sdf(points)
    assert (before - after)[..., 1].abs().max() > 1e-3


def test_neutral_cat_is_bit_identical_beside_varied_ones(basic, varied, points):
    """Skipped code and code at neutral values agree to the last bit."""
    mixed = [
        torch.cat([getattr(basic, f.name)[:3], getattr(varied, f.name)[:3]]) for f in fields(basic)
    ]
    together = CatField(CatParameters(*mixed)).sample(points)
    alone = CatField(basic).sample(points)
    assert torch.equal(together.class_sdf[:3], alone.class_sdf[:3])
    assert torch.equal(together.features[:3], alone.features[:3])


def test_distances_of_varied_cats_change_no_faster_than_those_of_basic_ones(basic, varied):
    """Sphere tracing relies on it: a smooth seam or a lock of fur must not promise too much."""
    generator = torch.Generator().manual_seed(3)
    places = torch.rand(1, 1500, 3, generator=generator) * 0.7 - 0.35
    direction = torch.nn.functional.normalize(torch.randn(places.shape, generator=generator), dim=2)
    field = CatField(varied)
    places, direction = places.expand(60, -1, -1), direction.expand(60, -1, -1)
    before = field.sdf(places)
    change = (field.sdf(places + 0.004 * direction) - before).abs()[before > 0] / 0.004
    assert change.max() < 1.25
    assert change.quantile(0.99) < 1.06


def test_enormous_ears_are_not_cut_by_the_bounding_ball(basic):
    huge = replace(basic[:1], ear_size=torch.tensor([2.4]))
    field = CatField(huge)
    direction = torch.randn(1, 20000, 3, generator=torch.Generator().manual_seed(5))
    on_ball = field.bound_radius * torch.nn.functional.normalize(direction, dim=-1)
    assert field.bound_radius > 0.4 and field.sdf(on_ball).min() > 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ear_fold": 1.0}, "folded"),
        ({"ear_tufts": 1.0}, "tufted"),
        ({"fur_length": 1.0}, "long-haired"),
        ({"calico": 1.0, "fur_color": WHITE}, "calico cat"),
        ({"calico": 1.0, "fur_color": [0.2, 0.1, 0.1]}, "tortoiseshell cat"),
        ({"points": 1.0, "point_color": [0.24, 0.16, 0.13]}, "seal point"),
        ({"odd_eyes": 1.0, "eye_color": [0.42, 0.72, 0.22]}, "one green and one blue eye"),
        ({"muzzle_length": 0.0}, "a flat face"),
        ({"tongue": 1.0}, "its tongue out"),
        ({"ruff": 1.0}, "cheek tufts"),
        ({"bib": 1.0, "fur_color": BLACK, "second_color": WHITE}, "a white bib"),
        (
            {"eye_patch": 1.0, "fur_color": WHITE, "second_color": BLACK},
            "a black patch over one eye",
        ),
    ],
)
def test_captions_name_what_shows(basic, values, words):
    assert any(words in caption for caption in captions(set_attributes(basic[:1], values)))
    assert not any(words in caption for caption in captions(basic))


def test_captions_name_the_true_fur_and_eye_color():
    rng, num_eye_mentions = random.Random(0), 0
    cats = cat_parameters_from_latent(latents(60))
    for index in range(60):
        caption, words = caption_cat(cats, index, rng), cat_words(cats, index)
        assert words["fur"] in caption
        mentioned = [f"{color} eyes" in caption for color in EYE_PALETTE]
        if any(mentioned):
            num_eye_mentions += 1
            assert f"{words['eye_color']} eyes" in caption and sum(mentioned) == 1
    assert num_eye_mentions > 20


def test_captions_vary_and_follow_the_seed(basic):
    assert len(set(captions(basic))) > 10
    assert captions(basic) == captions(basic)


def test_colors_decide_what_captions_say_of_ears_and_patterns(basic):
    black, orange = FUR_PALETTE["black"], FUR_PALETTE["orange"]
    colors = {"fur_color": black, "ear_color": orange, "tabby": 1.0}
    with_ears = [text for text in captions(set_attributes(basic, colors)) if "ears" in text]
    assert with_ears and all("orange ears" in text for text in with_ears)
    almost_black = [value + 0.05 for value in black]
    for second, pattern in ((orange, "tabby"), (almost_black, "plain")):
        cat = set_attributes(basic, colors | {"second_color": second})
        assert cat_words(cat, 0)["pattern"] == pattern


def test_only_one_kind_of_coat_is_painted(varied):
    patchwork = torch.stack([varied.points, varied.calico])
    patterns = torch.stack([varied.tabby, varied.bicolor, varied.spots])
    assert ((patchwork > 0).sum(dim=0) <= 1).all()
    assert (patterns[:, (patchwork > 0.5).any(dim=0)] == 0).all()
