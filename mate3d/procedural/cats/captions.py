"""Words for procedural cats: attribute names, and captions in varied wording."""

import random

from mate3d.label_conversion import join_words as enumerate_words
from mate3d.procedural.attributes import (
    BACKGROUND_PALETTE,
    color_name,
    join_words,
    step_word,
)
from mate3d.procedural.cats.cat import EYE_PALETTE, FUR_PALETTE, NOSE_PALETTE, CatParameters
from mate3d.procedural.cats.varied_cat import POINT_PALETTE

# A pattern is mentioned above this strength, if its colour differs from the fur's by this much.
_VISIBLE_STRENGTH = 0.5
_VISIBLE_CONTRAST = 0.12
_OPENINGS = ("a {}", "a {}", "a photo of a {}", "portrait of a {}", "the face of a {}")


def cat_words(parameters: CatParameters, index: int) -> dict[str, str]:
    """Describe a cat's attributes; average or invisible ones are empty strings.

    Returns:
        Words under the keys fur, pattern (plain, tabby, bicolor, spotted, calico, tortoiseshell,
        pointed), second, ear_size, ear_shape, ear_color, eye_size, eye_color, nose_color,
        background; and for varied cats points, fur_length, ear_fold, ear_tufts, odd_eyes, face,
        bib, eye_patch, ruff and tongue.
    """
    p = parameters
    strengths = {
        "tabby": float(p.tabby[index]),
        "bicolor": float(p.bicolor[index]),
        "spotted": float(p.spots[index]),
    }
    pattern = max(strengths, key=strengths.__getitem__)
    contrast = float((p.second_color[index] - p.fur_color[index]).norm())
    is_visible = strengths[pattern] > _VISIBLE_STRENGTH and contrast > _VISIBLE_CONTRAST
    return {
        "fur": color_name(p.fur_color[index], FUR_PALETTE),
        "pattern": _patchwork(p, index) or (pattern if is_visible else "plain"),
        "second": color_name(p.second_color[index], FUR_PALETTE),
        "ear_size": step_word(float(p.ear_size[index]), "small", 0.88, "", 1.16, "big"),
        "ear_shape": step_word(float(p.ear_roundness[index]), "pointed", 0.3, "", 0.7, "round"),
        "ear_color": color_name(p.ear_color[index], FUR_PALETTE),
        "eye_size": step_word(float(p.eye_size[index]), "small", 0.9, "", 1.12, "big"),
        "eye_color": color_name(p.eye_color[index], EYE_PALETTE),
        "nose_color": color_name(p.nose_color[index], NOSE_PALETTE),
        "background": color_name(p.background_color[index], BACKGROUND_PALETTE),
        **_varied_words(p, index),
    }


def _patchwork(parameters: CatParameters, index: int) -> str:
    """Return the coat pattern that hides all others, or ""."""
    if parameters.points[index] > _VISIBLE_STRENGTH:
        return "pointed"
    if parameters.calico[index] > _VISIBLE_STRENGTH:
        is_light = parameters.fur_color[index].mean() > 0.5
        return "calico" if is_light else "tortoiseshell"
    return ""


def _varied_words(parameters: CatParameters, index: int) -> dict[str, str]:
    number = {name: float(column[index]) for name, column in parameters.columns().items()}
    odd_color = color_name(parameters.odd_eye_color[index], EYE_PALETTE)
    contrast = float((parameters.second_color[index] - parameters.fur_color[index]).norm())

    def word(name: str, word: str, *, is_seen: bool = True) -> str:
        return word if is_seen and number[name] > _VISIBLE_STRENGTH else ""

    has_contrast = contrast > _VISIBLE_CONTRAST
    return {
        "points": word("points", color_name(parameters.point_color[index], POINT_PALETTE)),
        "fur_length": word("fur_length", "long-haired"),
        "ear_fold": word("ear_fold", "folded"),
        "ear_tufts": word("ear_tufts", "tufted"),
        "odd_eyes": word("odd_eyes", odd_color),
        "face": step_word(number["muzzle_length"], "flat", 0.35, ""),
        "bib": word("bib", "bib", is_seen=has_contrast),
        "eye_patch": word("eye_patch", "eye patch", is_seen=has_contrast),
        "ruff": word("ruff", "cheek tufts"),
        "tongue": word("tongue", "tongue"),
    }


def _coat_phrase(words: dict[str, str], rng: random.Random) -> str:
    return join_words(words["fur_length"], _short_coat_phrase(words, rng))


def _short_coat_phrase(words: dict[str, str], rng: random.Random) -> str:
    fur, second = words["fur"], words["second"]
    has_two = second != fur
    if words["pattern"] in ("calico", "tortoiseshell"):
        return f"{words['pattern']} cat"
    if words["pattern"] == "pointed":
        return rng.choice([f"{words['points']} point cat", f"{words['points']} point siamese cat"])
    if words["pattern"] == "tabby":
        return rng.choice([f"{fur} tabby cat", f"striped {fur} cat", f"{fur} cat with stripes"])
    if words["pattern"] == "bicolor" and has_two:
        return rng.choice([f"{fur} and {second} cat", f"two-coloured {fur} and {second} cat"])
    if words["pattern"] == "spotted":
        spots = f"{second} spots" if has_two else "spots"
        return rng.choice([f"spotted {fur} cat", f"{fur} cat with {spots}"])
    return f"{fur} cat"


def _part_phrases(words: dict[str, str], rng: random.Random) -> list[str]:
    """Return one phrase for each of ears, eyes and nose, in this order."""
    ear_words = [words["ear_size"], words["ear_fold"] or words["ear_shape"], words["ear_tufts"]]
    # The colour of ears that differ from the fur is always mentioned, others sometimes.
    if words["ear_color"] != words["fur"] or rng.random() < 0.35:
        ear_words.append(words["ear_color"])
    ears, eyes = join_words(*ear_words), join_words(words["eye_size"], words["eye_color"])
    if words["odd_eyes"] not in ("", words["eye_color"]):
        eyes = f"one {words['eye_color']} and one {words['odd_eyes']} eye"
    else:
        eyes = f"{eyes} eyes"
    return [f"{ears} ears" if ears else "", eyes, f"{words['nose_color']} nose"]


def _extra_phrases(words: dict[str, str]) -> list[str]:
    """Return phrases for features of varied cats; they are always mentioned."""
    phrases = [
        "a flat face" if words["face"] else "",
        f"a {words['second']} bib" if words["bib"] else "",
        f"a {words['second']} patch over one eye" if words["eye_patch"] else "",
        words["ruff"],
        "its tongue out" if words["tongue"] else "",
    ]
    return [phrase for phrase in phrases if phrase]


def caption_cat(parameters: CatParameters, index: int, rng: random.Random) -> str:
    """Describe one cat: always its coat, and a random subset of ears, eyes, nose, background.

    Features of varied cats, such as a bib or a flat face, are always mentioned.
    """
    words = cat_words(parameters, index)
    coat = _coat_phrase(words, rng)
    chances = (0.75, 0.75, 0.5)
    phrases = [
        phrase
        for phrase, chance in zip(_part_phrases(words, rng), chances, strict=True)
        if phrase and rng.random() < chance
    ]
    phrases = [f"a {phrase}" if phrase.endswith("nose") else phrase for phrase in phrases]
    phrases += _extra_phrases(words)
    rng.shuffle(phrases)
    opening = rng.choice(_OPENINGS).replace("a {}", "an {}" if coat[0] in "ao" else "a {}")
    caption = opening.format(coat)
    if phrases and (" with " in coat or rng.random() < 0.3):
        caption += ", " + ", ".join(phrases)
    elif phrases:
        caption += " with " + enumerate_words(phrases)
    if rng.random() < 0.4:
        caption += f", {words['background']} background"
    return caption
