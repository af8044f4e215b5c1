"""Colours that texts name, and the colours that parts of pictures have."""

import pytest
import torch

from mate3d.labels import CATMASK_HQ
from mate3d.metrics.named_colors import (
    color_agreement,
    colors_in,
    fit_colors,
    load_part_colors,
    named_colors,
)
from mate3d.procedural.portraits import CAT, PERSON, make_portraits


def test_part_colours_tell_right_from_wrong():
    # Ears are black and white in turn, all else is grey.
    label_maps = torch.ones(12, 8, 8, dtype=torch.uint8)
    label_maps[:, :4, :4] = 2
    images = torch.zeros(12, 3, 8, 8)
    images[::2, :, :4, :4], images[1::2, :, :4, :4] = -0.8, 0.9
    captions = ["a cat with big black ears", "a cat with white ears"] * 6
    real = named_colors(images, label_maps, captions, CATMASK_HQ)
    swapped = named_colors(images, label_maps, captions[1:] + captions[:1], CATMASK_HQ)
    known = fit_colors(real)
    assert color_agreement(real, known) == {"ears": 1.0}
    assert color_agreement(swapped, known) == {"ears": 0.0}


@pytest.mark.parametrize(
    ("text", "colors"),
    [
        ("an orange cat", {"skin": "orange"}),
        ("An Orange tabby cat, black ears", {"skin": "orange", "ears": "black"}),
        ("a cat with black pointed ears and blue eyes", {"ears": "black", "eyes": "blue"}),
        ("a white cat with pointed black ears", {"skin": "white", "ears": "black"}),
        ("a cat with orange fur and a pink nose", {"skin": "orange", "nose": "pink"}),
        ("a black and white cat", {}),
        ("a grey cat with white spots", {}),
        ("a seal point cat with big eyes", {}),
        ("a person with dark brown hair, a red hat", {"hair": "dark brown", "hat": "red"}),
    ],
)
def test_colours_are_read_from_text(text, colors):
    assert colors_in(text) == colors


def test_a_colour_between_two_words_is_half_of_each():
    black, white = torch.full((12, 3), -0.8), torch.full((12, 3), 0.8)
    black[::2] += 0.2
    images = torch.cat([black, white])[:, :, None, None].expand(-1, -1, 4, 4)
    captions = ["a black cat"] * 12 + ["a white cat"] * 12
    label_maps = torch.ones(24, 4, 4, dtype=torch.int64)
    known = fit_colors(named_colors(images, label_maps, captions, CATMASK_HQ))["skin"]
    middle = (torch.tensor(known.means["black"]) + torch.tensor(known.means["white"])) / 2
    assert known.probabilities(middle) == pytest.approx({"black": 0.5, "white": 0.5})
    assert known.probabilities(middle + 0.1)["white"] > 0.5


@pytest.mark.parametrize("kind", [CAT, PERSON])
def test_fitted_colours_know_new_portraits(kind):
    made = make_portraits(kind, range(12), 48)
    arguments = made.render.image, made.render.label_map
    known = load_part_colors(kind.label_set.name)
    right = named_colors(*arguments, made.captions, kind.label_set)
    turned = made.captions[1:] + made.captions[:1]
    wrong = named_colors(*arguments, turned, kind.label_set)

    def mean_agreement(named):
        values = [
            known[one.part].probabilities(one.color)[one.word]
            for one in named
            if one.word in known[one.part].means
        ]
        return sum(values) / len(values)

    assert mean_agreement(right) > 0.6
    assert mean_agreement(wrong) < mean_agreement(right) - 0.3


def test_label_sets_without_portraits_have_no_colours():
    assert load_part_colors("sofgan") == {}
