"""Tests of the words for people."""

import random
from dataclasses import replace

import pytest
import torch

from mate3d.procedural.people.captions import caption_person, person_words
from mate3d.procedural.people.person import (
    HAIR_PALETTE,
    SKIN_PALETTE,
    average_person,
    person_parameters_from_latent,
)


def set_person(**attributes):
    return replace(average_person(), **{k: torch.tensor([v]) for k, v in attributes.items()})


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
    z = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    people = person_parameters_from_latent(z)
    for index in range(200):
        words = person_words(people, index)
        caption = caption_person(people, index, random.Random(index))
        for key, word in (("glasses", "glasses"), ("hat", "beanie"), ("beard", "beard")):
            assert (word in caption) == (words[key] == word), caption
        assert "  " not in caption and ", ," not in caption and " a orange" not in caption
        assert caption[0].islower() and not caption.endswith(",")
