"""Captions from attributes and from label maps."""

import numpy as np
import pytest

from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ, LabelSet, get_label_set
from training.data.preparation.captions import caption_from_attributes, caption_from_labels


@pytest.mark.parametrize(
    ("true", "caption"),
    [
        (
            {"Smiling", "Young", "Black_Hair", "Wearing_Hat", "No_Beard"},
            "a smiling young woman with black hair wearing a hat",
        ),
        ({"Male", "No_Beard"}, "a man"),
        ({"Male"}, "a man with a beard"),
        (
            {"Male", "Bald", "Goatee", "Eyeglasses", "Wearing_Necktie"},
            "a bald man with a goatee wearing glasses and a necktie",
        ),
        (
            {"Wavy_Hair", "Blond_Hair", "Bangs", "Wearing_Earrings", "Attractive", "No_Beard"},
            "a woman with wavy blond hair and bangs wearing earrings",
        ),
    ],
)
def test_attributes_become_a_sentence(true, caption):
    names = {"Male", "Young", "Smiling", "No_Beard", "Attractive", *true}
    assert caption_from_attributes({name: float(name in true) for name in names}) == caption


def test_attributes_that_are_not_celebas_give_no_caption():
    assert caption_from_attributes({"age": 3.0}) == caption_from_attributes({}) == ""
    assert caption_from_attributes({"Smiling": 1.0}) == "a smiling person"


def _map(label_set: LabelSet, *names: str) -> np.ndarray:
    label_map = np.zeros((64, 64), np.uint8)
    for row, name in enumerate(names):
        label_map[row] = label_set.class_id(name)
    return label_map


PERSON = "a portrait of a person"


@pytest.mark.parametrize(
    ("label_set", "names", "caption"),
    [
        (CELEBAMASK_HQ, ("skin", "hair", "l_eye", "r_eye"), PERSON),
        (CELEBAMASK_HQ, ("hat", "ear_r", "l_eye"), f"{PERSON} wearing a hat and earrings"),
        (CELEBAMASK_HQ, ("eye_g",), f"{PERSON} wearing glasses"),
        (CELEBAMASK_HQ, ("l_eye", "mouth"), f"{PERSON} with an open mouth"),
        (CELEBAMASK_HQ, ("skin",), f"{PERSON} with closed eyes"),
        # Sets with fewer classes say less.
        (CATMASK_HQ, ("eyes", "mouth"), "a portrait of a cat"),
        (get_label_set("face_8"), ("eyes", "mouth"), PERSON),
    ],
)
def test_visible_classes_become_a_sentence(label_set, names, caption):
    assert caption_from_labels(_map(label_set, *names), label_set) == caption


def test_a_class_of_one_pixel_in_many_is_not_mentioned():
    label_map = _map(CELEBAMASK_HQ, "l_eye").repeat(2, 0).repeat(2, 1)
    label_map[-1, -1] = CELEBAMASK_HQ.class_id("hat")
    assert caption_from_labels(label_map, CELEBAMASK_HQ) == PERSON
