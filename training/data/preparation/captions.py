"""Captions from CelebA's attributes, the classes in a label map, or a network."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from mate3d.label_conversion import join_words
from mate3d.labels import LabelSet
from mate3d.photo.captioning import CaptionModel

_HAIR_FORMS = {"Wavy_Hair": "wavy", "Straight_Hair": "straight"}
_HAIR_COLORS = {
    "Black_Hair": "black",
    "Blond_Hair": "blond",
    "Brown_Hair": "brown",
    "Gray_Hair": "gray",
}
_BEARDS = {
    "Goatee": "a goatee",
    "Mustache": "a mustache",
    "5_o_Clock_Shadow": "stubble",
    "Sideburns": "sideburns",
}
_WORN = {
    "Eyeglasses": "glasses",
    "Wearing_Hat": "a hat",
    "Wearing_Earrings": "earrings",
    "Wearing_Necklace": "a necklace",
    "Wearing_Necktie": "a necktie",
    "Wearing_Lipstick": "lipstick",
}
_WORN_CLASSES = {"eye_g": "glasses", "hat": "a hat", "ear_r": "earrings", "neck_l": "a necklace"}
_EYE_CLASSES = ("l_eye", "r_eye", "eyes")
# Minimum fraction of pixels of a visible class: 79 of 512 x 512, about an earring.
_MIN_SHARE = 3e-4
_MIN_OPEN_MOUTH = 2e-3


def write_caption(
    source: str,
    model: CaptionModel | None,
    photo: Image.Image,
    label_map: np.ndarray,  # [H, W] uint8
    label_set: LabelSet,
    attributes: Mapping[str, float | list[float]],
) -> str:
    """Return the caption from a source of `PhotoOptions.caption_source`."""
    if source == "none":
        return ""
    if source == "model":
        return model.caption(photo)
    return caption_from_attributes(attributes) or caption_from_labels(label_map, label_set)


def caption_from_attributes(attributes: Mapping[str, float | list[float]]) -> str:
    """Describe a person from CelebA's 40 attributes, 1 for true and 0 for false.

    Subjective attributes such as Attractive or Big_Nose are left out.

    Returns:
        For example "a smiling young woman with black hair wearing a hat"; "" if there are none of
        CelebA's attributes.
    """
    known = {*_HAIR_FORMS, *_HAIR_COLORS, *_BEARDS, *_WORN, "Male", "Young", "Smiling", "Bald"}
    if not known & set(attributes):
        return ""
    has = {name for name, value in attributes.items() if value > 0}
    gender = "person" if "Male" not in attributes else "man" if "Male" in has else "woman"
    adjectives = [name.lower() for name in ("Smiling", "Bald", "Young") if name in has]
    caption = " ".join(["a", *adjectives, gender])
    features = _features(has, may_say_beard="No_Beard" in attributes and gender == "man")
    if features:
        caption += f" with {join_words(features)}"
    worn = [words for name, words in _WORN.items() if name in has]
    if worn:
        caption += f" wearing {join_words(worn)}"
    return caption


def caption_from_labels(
    label_map: np.ndarray,  # [H, W] uint8
    label_set: LabelSet,
) -> str:
    """Describe a label map, for example "a portrait of a person wearing glasses"."""
    counts = np.bincount(label_map.reshape(-1), minlength=label_set.num_classes)
    shares = dict(zip(label_set.class_names, counts / label_map.size, strict=True))
    visible = {name for name, share in shares.items() if share >= _MIN_SHARE}
    caption = f"a portrait of a {'cat' if label_set.name.startswith('cat') else 'person'}"
    worn = [words for name, words in _WORN_CLASSES.items() if name in visible]
    if worn:
        caption += f" wearing {join_words(worn)}"
    eyes = [name for name in _EYE_CLASSES if name in shares]
    details = []
    # Eyes behind dark glasses are not in the mask either.
    if eyes and not visible & {*eyes, "eye_g"}:
        details.append("closed eyes")
    # "mouth" is the space between the lips only in sets with classes for lips.
    if "u_lip" in shares and shares["mouth"] >= _MIN_OPEN_MOUTH:
        details.append("an open mouth")
    return f"{caption} with {join_words(details)}" if details else caption


def _features(has: set[str], *, may_say_beard: bool) -> list[str]:
    forms = {**_HAIR_FORMS, **_HAIR_COLORS}
    hair = [words for name, words in forms.items() if name in has]
    features = [f"{' '.join(hair)} hair"] if hair else []
    features += ["bangs"] if "Bangs" in has else []
    beards = [words for name, words in _BEARDS.items() if name in has]
    if not beards and may_say_beard and "No_Beard" not in has:
        beards = ["a beard"]
    return features + beards
