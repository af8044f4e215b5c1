"""Tests of captions."""

import random

import torch

from mate3d.procedural.cats.captions import caption_cat, cat_words
from mate3d.procedural.cats.cat import EYE_PALETTE, FUR_PALETTE, cat_parameters_from_latent


def sample_parameters(num: int = 60):
    return cat_parameters_from_latent(
        torch.randn(num, 64, generator=torch.Generator().manual_seed(0))
    )


def test_caption_names_the_true_fur_and_eye_color():
    parameters, rng = sample_parameters(), random.Random(0)
    num_eye_mentions = 0
    for index in range(len(parameters)):
        caption = caption_cat(parameters, index, rng)
        words = cat_words(parameters, index)
        assert words["fur"] in caption
        mentioned = [f"{color} eyes" in caption for color in EYE_PALETTE]
        if any(mentioned):
            num_eye_mentions += 1
            assert f"{words['eye_color']} eyes" in caption and sum(mentioned) == 1
    assert num_eye_mentions > 20


def test_captions_vary_and_follow_the_seed():
    parameters = sample_parameters(1)
    captions = [caption_cat(parameters, 0, random.Random(seed)) for seed in range(30)]
    assert len(set(captions)) > 15
    assert captions[4] == caption_cat(parameters, 0, random.Random(4))


def test_ears_of_another_color_are_named_with_it():
    parameters = sample_parameters(1)
    parameters.fur_color = torch.tensor([FUR_PALETTE["black"]])
    parameters.ear_color = torch.tensor([FUR_PALETTE["orange"]])
    captions = [caption_cat(parameters, 0, random.Random(seed)) for seed in range(20)]
    with_ears = [caption for caption in captions if "ears" in caption]
    assert with_ears and all("orange ears" in caption for caption in with_ears)


def test_pattern_in_the_color_of_the_fur_is_called_plain():
    parameters = sample_parameters(1)
    parameters.tabby = torch.ones(1)
    parameters.fur_color = torch.tensor([FUR_PALETTE["orange"]])
    parameters.second_color = torch.tensor([FUR_PALETTE["black"]])
    assert cat_words(parameters, 0)["pattern"] == "tabby"
    parameters.second_color = parameters.fur_color * 0.95
    assert cat_words(parameters, 0)["pattern"] == "plain"
