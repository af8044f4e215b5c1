"""Words for procedural cats: the attributes by name, and captions of varied wording."""

import random

from mate3d.procedural.attributes import BACKGROUND_PALETTE, color_name
from mate3d.procedural.cat import EYE_PALETTE, FUR_PALETTE, NOSE_PALETTE, CatParameters

# A pattern is named from this strength on, if its colour differs from the fur's by this much.
_VISIBLE_STRENGTH = 0.5
_VISIBLE_CONTRAST = 0.12
_OPENINGS = ("a {}", "a {}", "a photo of a {}", "portrait of a {}", "the face of a {}")


def _size_word(value: float, low: float, high: float, words: tuple[str, str]) -> str:
    return words[0] if value < low else words[1] if value > high else ""


def cat_words(
    parameters: CatParameters,
    index: int,
) -> dict[str, str]:
    """Name a cat's attributes; an average or invisible attribute is an empty string.

    Returns:
        Words under the keys fur, pattern (plain, tabby, bicolor, spotted), second, ear_size,
        ear_shape, ear_color, eye_size, eye_color, nose_color and background.
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
        "pattern": pattern if is_visible else "plain",
        "second": color_name(p.second_color[index], FUR_PALETTE),
        "ear_size": _size_word(float(p.ear_size[index]), 0.88, 1.16, ("small", "big")),
        "ear_shape": _size_word(float(p.ear_roundness[index]), 0.3, 0.7, ("pointed", "round")),
        "ear_color": color_name(p.ear_color[index], FUR_PALETTE),
        "eye_size": _size_word(float(p.eye_size[index]), 0.9, 1.12, ("small", "big")),
        "eye_color": color_name(p.eye_color[index], EYE_PALETTE),
        "nose_color": color_name(p.nose_color[index], NOSE_PALETTE),
        "background": color_name(p.background_color[index], BACKGROUND_PALETTE),
    }


def _coat_phrase(words: dict[str, str], rng: random.Random) -> str:
    fur, second = words["fur"], words["second"]
    has_two = second != fur
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
    ear_words = [words["ear_size"], words["ear_shape"]]
    # Ears that differ from the fur are always named; others now and then.
    if words["ear_color"] != words["fur"] or rng.random() < 0.35:
        ear_words.append(words["ear_color"])
    ears = " ".join(word for word in ear_words if word)
    eyes = " ".join(word for word in (words["eye_size"], words["eye_color"]) if word)
    return [f"{ears} ears" if ears else "", f"{eyes} eyes", f"{words['nose_color']} nose"]


def caption_cat(
    parameters: CatParameters,
    index: int,
    rng: random.Random,
) -> str:
    """Describe one cat: always its coat, and a random subset of ears, eyes, nose, background."""
    words = cat_words(parameters, index)
    coat = _coat_phrase(words, rng)
    chances = (0.75, 0.75, 0.5)
    phrases = [
        phrase
        for phrase, chance in zip(_part_phrases(words, rng), chances, strict=True)
        if phrase and rng.random() < chance
    ]
    phrases = [f"a {phrase}" if phrase.endswith("nose") else phrase for phrase in phrases]
    rng.shuffle(phrases)
    opening = rng.choice(_OPENINGS).replace("a {}", "an {}" if coat[0] in "ao" else "a {}")
    caption = opening.format(coat)
    if phrases and (" with " in coat or rng.random() < 0.3):
        caption += ", " + ", ".join(phrases)
    elif phrases:
        caption += " with " + _enumerate(phrases)
    if rng.random() < 0.4:
        caption += f", {words['background']} background"
    return caption


def _enumerate(phrases: list[str]) -> str:
    if len(phrases) == 1:
        return phrases[0]
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]
