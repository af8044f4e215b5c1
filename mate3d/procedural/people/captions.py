"""Words for procedural people: visible attributes by name, and captions in varied wording."""

import random

from mate3d.procedural.attributes import (
    BACKGROUND_PALETTE,
    color_name,
    join_words,
    step_word,
)
from mate3d.procedural.people.person import (
    FABRIC_PALETTE,
    HAIR_PALETTE,
    IRIS_PALETTE,
    SKIN_PALETTE,
    PersonParameters,
)

_OPENINGS = ("a person", "a person", "a photo of a person", "portrait of a person", "a face")
# Glasses, hats and beards above this strength are visible enough to mention.
_VISIBLE_STRENGTH = 0.5


def person_words(parameters: PersonParameters, index: int) -> dict[str, str]:
    """Describe a person's attributes; average, hidden or absent ones are empty strings.

    Returns:
        Words under the keys skin, hair_style (bald, thinning, short, chin-length, long),
        hair_curls, hair_color (empty on bald heads), fringe, beard, eye_size, eyes (half-closed,
        closed), eye_color, ear_size, glasses, glasses_color, hat (beanie, hat), hat_color,
        expression, mouth, cloth (shirt, sweater, turtleneck), cloth_color and background.
    """
    p = parameters
    number = {name: float(v[index]) for name, v in vars(p).items() if v.ndim == 1}
    has_glasses = number["glasses"] > _VISIBLE_STRENGTH
    has_hat = number["hat"] > _VISIBLE_STRENGTH
    style = step_word(number["hair_length"], "short", 0.25, "chin-length", 0.65, "long")
    style = step_word(number["hair"], "bald", 0.6, "thinning", 0.9, style)
    has_locks = style not in ("bald", "thinning")
    eyes = step_word(number["eye_openness"], "closed", 0.12, "half-closed", 0.4, "")
    eye_size = step_word(number["eye_size"], "small", 0.91, "", 1.1, "big")
    curls = step_word(number["curls"], "straight", 0.15, "wavy", 0.5, "curly")
    fringe = "fringe" if has_locks and not has_hat and number["fringe"] > 0.7 else ""
    return {
        "skin": color_name(p.skin_color[index], SKIN_PALETTE),
        "hair_style": style,
        "hair_curls": curls if has_locks else "",
        "hair_color": "" if style == "bald" else color_name(p.hair_color[index], HAIR_PALETTE),
        "fringe": fringe,
        "beard": "beard" if number["beard"] > _VISIBLE_STRENGTH else "",
        "eye_size": "" if eyes else eye_size,
        "eyes": eyes,
        "eye_color": "" if eyes == "closed" else color_name(p.iris_color[index], IRIS_PALETTE),
        "ear_size": _ear_word(number, style),
        "glasses": "glasses" if has_glasses else "",
        "glasses_color": color_name(p.glasses_color[index], FABRIC_PALETTE) if has_glasses else "",
        "hat": step_word(number["hat_brim"], "beanie", 0.5, "hat") if has_hat else "",
        "hat_color": color_name(p.hat_color[index], FABRIC_PALETTE) if has_hat else "",
        "expression": step_word(number["smile"], "serious", 0.15, "", 0.6, "smiling"),
        "mouth": "open mouth" if number["mouth_opening"] > 0.3 else "",
        "cloth": step_word(number["collar"], "shirt", 0.3, "sweater", 0.7, "turtleneck"),
        "cloth_color": color_name(p.cloth_color[index], FABRIC_PALETTE),
        "background": color_name(p.background_color[index], BACKGROUND_PALETTE),
    }


def _ear_word(number: dict[str, float], style: str) -> str:
    # Hair hides the ears from chin length on.
    is_hidden = style in ("chin-length", "long")
    return "" if is_hidden else step_word(number["ear_size"], "small", 0.86, "", 1.18, "big")


def _hair_phrase(words: dict[str, str], rng: random.Random) -> str:
    if words["hair_style"] == "bald":
        return rng.choice(["a bald head", "no hair"])
    color, curls = words["hair_color"], words["hair_curls"]
    if words["hair_style"] == "chin-length" and rng.random() < 0.5:
        phrase = join_words("a", curls, color, "bob")
    else:
        phrase = join_words(
            words["hair_style"], curls if curls != "straight" else "", color, "hair"
        )
    return f"{phrase} and a fringe" if words["fringe"] and rng.random() < 0.7 else phrase


def caption_person(parameters: PersonParameters, index: int, rng: random.Random) -> str:
    """Describe one person: always hair, glasses, hat and beard, and a random subset of the rest."""
    words = person_words(parameters, index)

    def now_and_then(chance: float, phrase: str) -> str:
        return phrase if rng.random() < chance else ""

    eyes = join_words(words["eyes"], words["eye_size"], words["eye_color"], "eyes")
    always = [
        _hair_phrase(words, rng),
        f"{rng.choice(['', words['glasses_color'] + ' '])}glasses" if words["glasses"] else "",
        f"a {words['hair_color']} beard" if words["beard"] and words["hair_color"] else "",
        "a beard" if words["beard"] and not words["hair_color"] else "",
        f"a {words['hat_color']} {words['hat']}" if words["hat"] else "",
    ]
    sometimes = [
        now_and_then(0.6, eyes),
        now_and_then(0.4, f"{words['skin']} skin"),
        now_and_then(0.7, join_words(words["ear_size"], "ears") if words["ear_size"] else ""),
        now_and_then(0.7, f"an {words['mouth']}" if words["mouth"] else ""),
        now_and_then(0.4, f"a {words['cloth_color']} {words['cloth']}"),
    ]
    phrases = [phrase for phrase in (*always, *sometimes) if phrase]
    rng.shuffle(phrases)
    opening = rng.choice(_OPENINGS)
    if words["expression"] and rng.random() < 0.8:
        opening = opening.replace("a person", f"a {words['expression']} person")
        opening = opening.replace("a face", f"a {words['expression']} face")
    # Commas only: "and" already joins hair and fringe.
    caption = f"{opening} with " + ", ".join(phrases)
    if rng.random() < 0.35:
        caption += f", {words['background']} background"
    return caption.replace(" a orange", " an orange")
