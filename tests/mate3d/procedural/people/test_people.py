"""People's distances, labels, colours and captions, and how often things occur."""

import random
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from mate3d.cameras import make_camera
from mate3d.labels import CELEBAMASK_HQ
from mate3d.procedural.attributes import color_name
from mate3d.procedural.people.captions import caption_person, person_words
from mate3d.procedural.people.field import PersonField
from mate3d.procedural.people.person import (
    HAIR_PALETTE,
    SKIN_PALETTE,
    PersonParameters,
    person_parameters_from_latent,
)
from mate3d.procedural.tracer import AnalyticRender, render_analytic
from mate3d.rendering.rays import sample_rays
from tests.mate3d.fields import gradient_norms, latents

NUM_PEOPLE = 6
UNUSED = ("ear_r", "neck_l")


def average_person(num: int = 1) -> PersonParameters:
    """Return the average person, whose landmarks are the canonical ones."""
    return PersonParameters(skin_color=torch.tensor([SKIN_PALETTE["light"]]).expand(num, 3).clone())


def class_id(name: str) -> int:
    return CELEBAMASK_HQ.class_id(name)


def random_people(num: int, seed: int = 0) -> PersonParameters:
    return person_parameters_from_latent(latents(num, seed))


def set_person(**attributes) -> PersonParameters:
    return replace(average_person(), **{k: torch.tensor([v]) for k, v in attributes.items()})


def render(person: PersonParameters, size: int) -> AnalyticRender:
    """Render from the front."""
    return render_analytic(PersonField(person), make_camera(0.0), size, supersampling=1)


@pytest.fixture(scope="module")
def parameters() -> PersonParameters:
    people = random_people(NUM_PEOPLE)
    # One person at least with each thing that may be missing.
    people.hat[0] = people.glasses[1] = people.curls[2] = people.mouth_opening[3] = 1.0
    people.hair[4] = 0.0
    people.hair_length[5] = people.hat_brim[0] = 1.0
    return people


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(NUM_PEOPLE, 4000, 3, generator=generator) * 0.8 - 0.4


def test_distances_change_no_faster_than_position(parameters, points):
    """Sphere tracing relies on this: it never steps through a surface."""
    field = PersonField(parameters)
    outside = field.sdf(points)[..., 0] > 0.002
    assert gradient_norms(field.sdf, points)[..., 0][outside].max() <= 1.05
    assert gradient_norms(field.class_sdf, points).max() <= 1.06


def test_person_alone_equals_person_in_a_batch(parameters, points):
    """Though hats and glasses are left out of batches that have none."""
    batch = PersonField(parameters).sample(points[:, :500])
    for index in range(NUM_PEOPLE):
        one = slice(index, index + 1)
        alone = PersonField(parameters[one]).sample(points[one, :500])
        torch.testing.assert_close(alone.sdf[0], batch.sdf[index], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.features[0], batch.features[index], rtol=0, atol=1e-3)


def test_mirrored_points_swap_left_and_right_classes(parameters, points):
    symmetric = replace(parameters, parting=torch.zeros(NUM_PEOPLE))
    field = PersonField(symmetric)
    mirrored = field.class_sdf(points * torch.tensor([-1.0, 1.0, 1.0]))
    permuted = field.class_sdf(points)[..., CELEBAMASK_HQ.mirror_permutation()]
    torch.testing.assert_close(mirrored, permuted, rtol=0, atol=1e-5)


def test_average_person_has_the_canonical_landmarks():
    seen = render(average_person(), 128)
    labels = seen.label_map[0]
    origins, directions = sample_rays(make_camera(0.0), 128)
    places = (origins + seen.depth.view(1, -1, 1) * directions).view(128, 128, 3)

    def pixels(*names: str) -> torch.Tensor:  # [M, 3] world points seen
        return places[sum((labels == class_id(name)).int() for name in names).bool()]

    lips, nose = pixels("u_lip", "l_lip", "mouth"), pixels("nose")
    eyes = {"l_eye": -0.070, "r_eye": 0.070}
    for name, x in eyes.items():
        eye = pixels(name)
        assert (eye.mean(dim=0)[:2] - torch.tensor([x, 0.020])).norm() < 0.01
        assert abs(eye[:, 2].max() - 0.085) < 0.01
    tip = nose[nose[:, 2].argmax()]
    assert (tip - torch.tensor([0.0, -0.065, 0.155])).norm() < 0.01
    for side in (-1, 1):
        corner = lips[(side * lips[:, 0]).argmax()]
        assert (corner - torch.tensor([side * 0.055, -0.135, 0.095])).norm() < 0.01
    assert abs(pixels("skin")[:, 1].min() + 0.24) < 0.012
    assert abs(pixels("hair")[:, 1].max() - 0.28) < 0.012
    for name, x in {"l_ear": -0.165, "r_ear": 0.165}.items():
        ear = pixels(name).mean(dim=0)
        assert (ear - torch.tensor([x, -0.02, -0.01])).norm() < 0.015


def test_labels_are_the_documented_subset_and_each_appears(parameters):
    camera = make_camera(torch.linspace(-0.7, 0.7, NUM_PEOPLE), torch.linspace(0.4, -0.4, 6))
    render = render_analytic(PersonField(parameters), camera, 96, supersampling=1)
    seen = {CELEBAMASK_HQ.class_names[i] for i in render.label_map.unique().tolist()}
    assert seen == set(CELEBAMASK_HQ.class_names) - set(UNUSED)
    assert render.image.isfinite().all() and render.normals.isfinite().all()
    # The middle of the picture is always covered.
    assert (render.opacity[:, 0, 30:66, 40:56] > 0).all()
    # The lower edge shows cloth, never a body that ends in the air.
    assert (render.label_map[:, -1] == class_id("cloth")).any(dim=1).all()


@pytest.mark.parametrize(
    ("name", "value", "classes"),
    [
        ("glasses", 1.0, {"eye_g"}),
        ("hat", 1.0, {"hat", "hair"}),
        ("hair", 0.0, {"hair"}),
        ("hair_length", 0.8, {"hair"}),
        ("fringe", 1.0, {"hair"}),
        ("curls", 1.0, {"hair"}),
        ("collar", 1.0, {"cloth"}),
        ("brow_thickness", 1.5, {"l_brow", "r_brow"}),
        ("ear_size", 1.5, {"l_ear", "r_ear", "skin", "neck"}),
    ],
)
def test_set_attribute_changes_its_own_classes_only(points, name, value, classes):
    person = average_person(NUM_PEOPLE)
    changed = replace(person, **{name: torch.full((NUM_PEOPLE,), value)})
    before, after = PersonField(person).class_sdf(points), PersonField(changed).class_sdf(points)
    moved = ((before - after).abs() > 1e-6).flatten(0, 1).any(dim=0)
    assert {CELEBAMASK_HQ.class_names[i] for i in moved.nonzero()[:, 0].tolist()} == classes


def test_beard_grows_on_jaw_chin_and_upper_lip_only():
    bare, stubbly, bearded = (
        render(set_person(beard=beard, hair_color=HAIR_PALETTE["red"]), 96).image[0]
        for beard in (0.0, 0.4, 1.0)
    )
    # Brows, eyes, cheeks and nose, without the sides; 0.3166 world units are 48 rows.
    middle = (slice(None), slice(0, 59), slice(36, 60))
    assert (bearded[middle] - bare[middle]).abs().max() < 1e-4
    chin = (slice(None), 78, 48)
    assert (bearded[chin] - bare[chin]).abs().max() > 0.3
    # Stubble is a shadow of any hair, a full beard has its colour.
    assert stubbly[chin].mean() < bare[chin].mean()
    least, light, strong = (np.ptp(image[chin].numpy()) for image in (bare, stubbly, bearded))
    assert light < 1.1 * least and strong > 1.5 * least


def test_closed_eyes_show_no_eyeball_and_an_open_mouth_shows_its_inside():
    closed = render(set_person(eye_openness=0.0), 96).label_map
    opened = render(set_person(mouth_opening=1.0), 96).label_map
    assert not torch.isin(closed, torch.tensor([class_id("l_eye"), class_id("r_eye")])).any()
    assert (opened == class_id("mouth")).sum() > 20


def test_every_attribute_can_be_set_to_both_ends_of_its_range():
    """The distances stay finite, and the average face stays where it is seen from the front."""
    declared = [f for f in fields(PersonParameters) if f.metadata["size"] == 1]
    people = average_person(2 * len(declared))
    for index, attribute in enumerate(declared):
        getattr(people, attribute.name)[2 * index] = attribute.metadata["low"]
        getattr(people, attribute.name)[2 * index + 1] = attribute.metadata["high"]
    generator = torch.Generator().manual_seed(6)
    points = torch.rand(1, 400, 3, generator=generator) * 0.6 - 0.3
    samples = PersonField(people).sample(points.expand(len(people), -1, -1))
    assert samples.class_sdf.isfinite().all() and samples.features.isfinite().all()
    inside = torch.tensor([0.0, -0.08, 0.02]).expand(len(people), 1, 3)
    assert (PersonField(people).sdf(inside) < 0).all()


def test_hats_glasses_beards_and_bald_heads_are_a_minority():
    p = random_people(2000, seed=3)
    shares = {name: (getattr(p, name) > 0.5).float().mean() for name in ("hat", "glasses", "beard")}
    assert all(0.05 < share < 0.4 for share in shares.values()), shares
    assert 0.02 < (p.hair < 0.5).float().mean() < 0.1
    # Shares between absent and present are rare.
    for name in ("hat", "glasses", "beard"):
        between = (getattr(p, name) > 0) & (getattr(p, name) < 1)
        assert between.float().mean() < 0.04


def test_hair_colours_suit_the_skin():
    people = random_people(4000, seed=5)
    hairs = [color_name(color, HAIR_PALETTE) for color in people.hair_color]
    skins = [color_name(color, SKIN_PALETTE) for color in people.skin_color]

    def share(skin: tuple[str, ...], hair: tuple[str, ...]) -> float:
        chosen = [h for h, s in zip(hairs, skins, strict=True) if s in skin]
        return sum(h in hair for h in chosen) / len(chosen)

    assert share(("deep", "brown"), ("black", "dark brown")) > 0.7
    assert 0.005 < share(("deep", "brown"), ("red", "blonde")) < 0.08
    assert share(("light", "fair"), ("red", "blonde")) > 0.25
    assert all(share(("light", "fair"), (name,)) > 0.04 for name in HAIR_PALETTE)


@pytest.mark.parametrize(
    ("attributes", "key", "word"),
    [
        ({"hair": 0.0}, "hair_style", "bald"),
        ({"hair": 0.0}, "hair_color", ""),
        ({"hair_length": 0.5}, "hair_style", "chin-length"),
        ({"hair_length": 1.0, "ear_size": 1.5}, "ear_size", ""),
        ({"ear_size": 1.5}, "ear_size", "big"),
        ({"hair_color": HAIR_PALETTE["red"]}, "hair_color", "red"),
        ({"curls": 1.0}, "hair_curls", "curly"),
        ({"fringe": 1.0, "hat": 1.0}, "fringe", ""),
        ({"glasses": 1.0}, "glasses", "glasses"),
        ({"hat": 1.0}, "hat", "beanie"),
        ({"hat": 1.0, "hat_brim": 1.0}, "hat", "hat"),
        ({"smile": 1.0}, "expression", "smiling"),
        ({"mouth_opening": 1.0}, "mouth", "open mouth"),
        ({"eye_openness": 0.0}, "eyes", "closed"),
        ({"eye_openness": 0.0}, "eye_color", ""),
        ({"skin_color": SKIN_PALETTE["deep"]}, "skin", "deep"),
    ],
)
def test_words_name_what_is_set(attributes, key, word):
    assert person_words(set_person(**attributes), 0)[key] == word


def test_captions_name_hair_glasses_hat_and_beard_always():
    person = set_person(glasses=1.0, hat=1.0, beard=1.0, hair_length=1.0)
    for seed in range(30):
        caption = caption_person(person, 0, random.Random(seed))
        for word in ("glasses", "beanie", "beard", "long", "hair"):
            assert word in caption


def test_captions_say_nothing_that_words_do_not():
    people = random_people(200)
    for index in range(200):
        words = person_words(people, index)
        caption = caption_person(people, index, random.Random(index))
        for key, word in (("glasses", "glasses"), ("hat", "beanie"), ("beard", "beard")):
            assert (word in caption) == (words[key] == word), caption
        assert "  " not in caption and ", ," not in caption and " a orange" not in caption
        assert caption[0].islower() and not caption.endswith(",")
