"""Attributes of procedural people, their distributions, and the mapping from latents."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mate3d.procedural.attributes import (
    Palette,
    PortraitParameters,
    background_path,
    color,
    number,
    palette_path,
    smoothstep,
    uniforms_from_latent,
)

NUM_PERSON_ATTRIBUTES = 44
_PROJECTION_SEED = 20241

SKIN_PALETTE: Palette = {
    "deep": (0.36, 0.21, 0.15),
    "brown": (0.55, 0.35, 0.24),
    "tan": (0.78, 0.56, 0.41),
    "light": (0.93, 0.73, 0.60),
    "fair": (0.98, 0.83, 0.74),
}
HAIR_PALETTE: Palette = {
    "black": (0.09, 0.08, 0.09),
    "dark brown": (0.22, 0.13, 0.09),
    "brown": (0.42, 0.25, 0.14),
    "red": (0.68, 0.28, 0.11),
    "blonde": (0.90, 0.70, 0.36),
    "grey": (0.66, 0.66, 0.68),
    "white": (0.92, 0.91, 0.89),
}
# Fraction of people with each hair colour, for deep and for fair skin.
_HAIR_SHARES = {
    "black": (0.56, 0.12),
    "dark brown": (0.26, 0.22),
    "brown": (0.04, 0.21),
    "red": (0.015, 0.12),
    "blonde": (0.015, 0.20),
    "grey": (0.07, 0.08),
    "white": (0.04, 0.05),
}
IRIS_PALETTE: Palette = {
    "dark brown": (0.24, 0.13, 0.07),
    "brown": (0.46, 0.26, 0.11),
    "hazel": (0.58, 0.46, 0.18),
    "green": (0.34, 0.58, 0.32),
    "blue": (0.26, 0.52, 0.82),
    "grey": (0.52, 0.60, 0.68),
}
# For clothes, hats and glasses.
FABRIC_PALETTE: Palette = {
    "black": (0.12, 0.12, 0.14),
    "navy": (0.13, 0.18, 0.38),
    "blue": (0.20, 0.42, 0.75),
    "teal": (0.13, 0.55, 0.54),
    "green": (0.30, 0.58, 0.30),
    "yellow": (0.93, 0.76, 0.25),
    "orange": (0.92, 0.50, 0.20),
    "red": (0.80, 0.20, 0.20),
    "pink": (0.93, 0.58, 0.66),
    "white": (0.93, 0.93, 0.92),
}


@dataclass
class PersonParameters(PortraitParameters):
    """A batch of people; sizes relative to the average person, colours RGB in 0..1.

    Numbers in 0..1 run from one extreme to the other. Only `skin_color` is required; everything
    else defaults to the average person.

    Args:
        chin: 0 is a short chin, 1 a long one.
        cheeks: Fullness of the cheeks.
        forehead: Height of the hairline and the skull.
        brow_height: 0 is close to the eyes, 1 high above them.
        brow_arch: 0 is straight, 1 strongly arched.
        eye_openness: 0 is closed, 1 wide open.
        eye_tilt: 0 lowers the outer corners, 1 raises them.
        nose_bridge: 0 is a flat bridge, 1 a high one.
        mouth_opening: 0 is closed; teeth show from about 0.3.
        smile: 0 turns the corners slightly down, 0.3 is level, 1 a broad smile.
        hair: 0 is bald, about 0.8 thinning, 1 full.
        hair_length: 0 ends above the ears, 0.5 at the chin (a bob), 1 below the shoulders.
        fringe: 0 leaves the forehead free, 1 covers it.
        parting: -1 is on the left of the image, 0 in the middle, 1 on the right.
        curls: 0 is straight, 1 curly.
        beard: Jaw, chin and upper lip: stubble up to 0.4, a full beard in the hair colour from
            0.9; a colour, not a class.
        glasses: 0 is off, 1 is on; frames are thinner in between.
        hat: 0 is off, 1 is on; in between it sinks into the head.
        hat_brim: 0 is a beanie, 1 a wide brim.
        collar: 0 is a low round collar, 1 a turtleneck.
    """

    skin_color: Tensor = color()  # [B, 3]
    face_width: Tensor = number(0.9, 1.1, neutral=1.0)  # [B], like all numbers
    jaw_width: Tensor = number(0.8, 1.2, neutral=1.0)
    chin: Tensor = number(0.0, 1.0, neutral=0.5)
    cheeks: Tensor = number(0.0, 1.0, neutral=0.5)
    forehead: Tensor = number(0.9, 1.1, neutral=1.0)
    brow_thickness: Tensor = number(0.5, 1.6, neutral=1.0)
    brow_height: Tensor = number(0.0, 1.0, neutral=0.5)
    brow_arch: Tensor = number(0.0, 1.0, neutral=0.5)
    eye_size: Tensor = number(0.8, 1.2, neutral=1.0)
    eye_spacing: Tensor = number(0.9, 1.1, neutral=1.0)
    eye_openness: Tensor = number(0.0, 1.0, neutral=0.75)
    eye_tilt: Tensor = number(0.0, 1.0, neutral=0.5)
    nose_length: Tensor = number(0.8, 1.2, neutral=1.0)
    nose_width: Tensor = number(0.75, 1.3, neutral=1.0)
    nose_bridge: Tensor = number(0.0, 1.0, neutral=0.5)
    lip_fullness: Tensor = number(0.6, 1.5, neutral=1.0)
    mouth_width: Tensor = number(0.8, 1.2, neutral=1.0)
    mouth_opening: Tensor = number(0.0, 1.0, neutral=0.0)
    smile: Tensor = number(0.0, 1.0, neutral=0.3)
    ear_size: Tensor = number(0.7, 1.6, neutral=1.0)
    neck_width: Tensor = number(0.85, 1.15, neutral=1.0)
    hair: Tensor = number(0.0, 1.0, neutral=1.0)
    hair_length: Tensor = number(0.0, 1.0, neutral=0.0)
    hair_volume: Tensor = number(0.6, 1.5, neutral=1.0)
    fringe: Tensor = number(0.0, 1.0, neutral=0.3)
    parting: Tensor = number(-1.0, 1.0, neutral=0.0)
    curls: Tensor = number(0.0, 1.0, neutral=0.0)
    beard: Tensor = number(0.0, 1.0, neutral=0.0)
    glasses: Tensor = number(0.0, 1.0, neutral=0.0)
    glasses_size: Tensor = number(0.8, 1.25, neutral=1.0)
    hat: Tensor = number(0.0, 1.0, neutral=0.0)
    hat_brim: Tensor = number(0.0, 1.0, neutral=0.0)
    collar: Tensor = number(0.0, 1.0, neutral=0.3)
    hair_color: Tensor = color(neutral=HAIR_PALETTE["brown"])  # [B, 3]
    brow_color: Tensor = color(neutral=(0.30, 0.18, 0.11))  # [B, 3]
    iris_color: Tensor = color(neutral=IRIS_PALETTE["brown"])  # [B, 3]
    lip_color: Tensor = color(neutral=(0.80, 0.45, 0.42))  # [B, 3]
    glasses_color: Tensor = color(neutral=FABRIC_PALETTE["black"])  # [B, 3]
    hat_color: Tensor = color(neutral=FABRIC_PALETTE["red"])  # [B, 3]
    cloth_color: Tensor = color(neutral=FABRIC_PALETTE["blue"])  # [B, 3]
    background_color: Tensor = color(neutral=(0.93, 0.93, 0.93))  # [B, 3]


def person_parameters_from_uniforms(
    uniforms: Tensor,  # [B, NUM_PERSON_ATTRIBUTES] in 0..1
) -> PersonParameters:
    """Map uniform numbers to people, with each attribute's distribution."""
    assert uniforms.shape[-1] == NUM_PERSON_ATTRIBUTES, uniforms.shape
    u = iter(uniforms.unbind(-1))

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * next(u)

    # Hair length and beards are loosely correlated, as expected in portraits.
    length, beard = next(u), next(u)
    hair_length = smoothstep(length, 0.3, 0.95)
    skin_position = next(u)
    skin = palette_path(skin_position, SKIN_PALETTE) * between(0.94, 1.04)[:, None]
    hair_position = _hair_position(next(u), smoothstep(skin_position, 0.25, 0.75))
    hair_color = palette_path(hair_position, HAIR_PALETTE) * between(0.9, 1.1)[:, None]
    lip_tint = next(u)
    return PersonParameters(
        skin_color=skin.clamp(max=1),
        face_width=between(0.93, 1.07),
        jaw_width=between(0.86, 1.14),
        chin=next(u),
        cheeks=next(u),
        forehead=between(0.95, 1.05),
        brow_thickness=between(0.65, 1.35),
        brow_height=between(0.2, 1.0),
        brow_arch=next(u),
        eye_size=between(0.88, 1.14),
        eye_spacing=between(0.94, 1.06),
        eye_openness=between(0.5, 1.0),
        eye_tilt=between(0.1, 0.9),
        nose_length=between(0.85, 1.15),
        nose_width=between(0.8, 1.25),
        nose_bridge=next(u),
        lip_fullness=between(0.7, 1.35),
        mouth_width=between(0.86, 1.14),
        mouth_opening=0.9 * smoothstep(next(u), 0.6, 1.0),
        smile=next(u),
        ear_size=between(0.8, 1.25),
        neck_width=between(0.9, 1.1),
        hair=1 - smoothstep(next(u), 0.93, 0.97),
        hair_length=hair_length,
        hair_volume=between(0.7, 1.35),
        fringe=next(u),
        parting=between(-1.0, 1.0),
        curls=smoothstep(next(u), 0.55, 0.95),
        beard=smoothstep(beard, 0.74, 0.78) * (1 - smoothstep(length, 0.54, 0.58)),
        glasses=smoothstep(next(u), 0.70, 0.72),
        glasses_size=between(0.88, 1.12),
        hat=smoothstep(next(u), 0.80, 0.82),
        hat_brim=smoothstep(next(u), 0.4, 0.7),
        collar=next(u),
        hair_color=hair_color.clamp(max=1),
        brow_color=(0.75 * hair_color + 0.02).clamp(max=0.62),
        iris_color=palette_path(next(u), IRIS_PALETTE),
        lip_color=_lip_color(skin, lip_tint),
        glasses_color=palette_path(next(u), FABRIC_PALETTE),
        hat_color=palette_path(next(u), FABRIC_PALETTE),
        cloth_color=palette_path(next(u), FABRIC_PALETTE),
        background_color=background_path(next(u), next(u)),
    )


def _hair_position(
    uniform: Tensor,  # [B] in 0..1
    lightness: Tensor,  # [B] 0 for deep, 1 for fair skin
) -> Tensor:  # [B] in 0..1
    """Return positions on the hair palette, so that each colour gets its fraction of people."""
    deep, fair = uniform.new_tensor(list(_HAIR_SHARES.values())).unbind(-1)
    shares = torch.lerp(deep, fair, lightness[:, None])
    starts = shares.cumsum(dim=-1) - shares
    return ((uniform[:, None] - starts) / shares).clamp(0, 1).mean(dim=-1)


def _lip_color(skin: Tensor, tint: Tensor) -> Tensor:  # [B, 3], [B] -> [B, 3]
    """Return a redder shade of the skin, or lipstick if `tint` is high."""
    natural = skin * skin.new_tensor([0.88, 0.62, 0.62])
    stick = skin.new_tensor([0.74, 0.14, 0.20]).expand_as(skin)
    return torch.lerp(natural, stick, smoothstep(tint, 0.65, 0.95)[:, None]).clamp(0, 1)


def person_parameters_from_latent(
    z: Tensor,  # [B, Z] standard normal, Z >= NUM_PERSON_ATTRIBUTES
) -> PersonParameters:
    """Return the person of a latent, a fixed function of z for a given Z."""
    return person_parameters_from_uniforms(
        uniforms_from_latent(z, NUM_PERSON_ATTRIBUTES, _PROJECTION_SEED)
    )
