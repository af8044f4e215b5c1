"""Attributes of procedural cats, their distributions, and the fixed mapping from latents."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mate3d.procedural.attributes import (
    PortraitParameters,
    background_path,
    color,
    number,
    palette_path,
    smoothstep,
    uniforms_from_latent,
)

NUM_CAT_ATTRIBUTES = 22
_PROJECTION_SEED = 20240

FUR_PALETTE = {
    "black": (0.11, 0.10, 0.11),
    "brown": (0.43, 0.27, 0.16),
    "grey": (0.47, 0.49, 0.53),
    "orange": (0.90, 0.50, 0.17),
    "cream": (0.93, 0.80, 0.60),
    "white": (0.95, 0.94, 0.92),
}
EYE_PALETTE = {
    "copper": (0.76, 0.33, 0.08),
    "amber": (0.96, 0.70, 0.12),
    "green": (0.42, 0.72, 0.22),
    "blue": (0.22, 0.56, 0.93),
}
NOSE_PALETTE = {
    "pink": (0.93, 0.52, 0.54),
    "brown": (0.45, 0.24, 0.18),
    "black": (0.10, 0.08, 0.09),
}


@dataclass
class CatParameters(PortraitParameters):
    """A batch of cats; sizes relative to the average cat, angles in radians, colours RGB in 0..1.

    The first 21 vary in basic cats; all others are neutral there. Ranges apply to values set by
    users; sampled cats stay within them.

    Args:
        ear_size: Length and width of the ears.
        ear_roundness: 0 is a pointed tip, 1 a round one.
        ear_spread: Outward tilt of the ears.
        chin: 0 is a receding chin, 1 a strong one.
        pupil_width: 0 is a slit, 1 nearly round.
        tabby: Strength of stripes. Sampled cats have at most one pattern.
        bicolor: Strength of the second colour on blaze, muzzle and chest.
        spots: Strength of spots.
        pattern_scale: Coarseness of stripes, spots and patches; extent of the second colour.
        ear_width: Width of the ears, in addition to `ear_size`.
        ear_turn: Turns the openings of the ears outwards.
        ear_fold: Bends the upper part of the ears forward and down; 1 is a Scottish Fold.
        ear_tufts: Length of the tufts at the tips.
        eyelids: 0 is a round stare, 1 sleepy; almond-shaped in between.
        eye_slant: Raises the outer corners of the eyes; shows with `eyelids`.
        muzzle_length: How far the muzzle sticks out; 0 is the flat face of a Persian.
        nose_height: Raises the nose; 1 is close to the eyes.
        smile: Raises the corners of the mouth.
        tongue: Length of the visible tongue, labelled as mouth.
        ruff: Length of the pointed tufts of fur at the cheeks.
        mane: Volume of the fur around the neck.
        fur_length: Depth of the locks in the fur, in shape and colour.
        points: Strength of a Siamese's mask on face and ears, in `point_color`.
        calico: Strength of irregular patches of `second_color` and `third_color`.
        patch_place: Position of the patches of `calico` and `eye_patch`; periodic, 0 equals 1.
        blaze_width: Width of the blaze of `bicolor`.
        blaze_height: Raises the top of the blaze, in tenths of a world unit.
        bib: Strength of the second colour on the chest.
        eye_patch: Strength of a patch of the second colour around one eye.
        odd_eyes: Weight of `odd_eye_color` in the eye on the right of the image.
        iris_ring: Strength of a light ring around the pupil.
    """

    ear_size: Tensor = number(0.7, 1.35)  # [B], like all numbers
    ear_roundness: Tensor = number(0.0, 1.0)
    ear_spread: Tensor = number(0.1, 0.6)
    eye_size: Tensor = number(0.8, 1.25)
    eye_spacing: Tensor = number(0.9, 1.12)
    muzzle_size: Tensor = number(0.85, 1.2)
    cheek_width: Tensor = number(0.85, 1.2)
    head_width: Tensor = number(0.92, 1.08)
    chin: Tensor = number(0.0, 1.0)
    mouth_width: Tensor = number(0.85, 1.2)
    pupil_width: Tensor = number(0.0, 1.0)
    tabby: Tensor = number(0.0, 1.0)
    bicolor: Tensor = number(0.0, 1.0)
    spots: Tensor = number(0.0, 1.0)
    pattern_scale: Tensor = number(0.8, 1.25)
    fur_color: Tensor = color()  # [B, 3], like all colours
    second_color: Tensor = color()
    ear_color: Tensor = color()
    eye_color: Tensor = color()
    nose_color: Tensor = color()
    background_color: Tensor = color()
    ear_width: Tensor = number(0.75, 1.3, neutral=1.0)
    ear_spacing: Tensor = number(0.8, 1.2, neutral=1.0)
    ear_turn: Tensor = number(-0.4, 0.8, neutral=0.0)
    ear_fold: Tensor = number(0.0, 1.0, neutral=0.0)
    ear_tufts: Tensor = number(0.0, 1.0, neutral=0.0)
    eyelids: Tensor = number(0.0, 1.0, neutral=0.0)
    eye_slant: Tensor = number(-0.3, 0.5, neutral=0.0)
    head_height: Tensor = number(0.9, 1.1, neutral=1.0)
    muzzle_length: Tensor = number(0.0, 1.6, neutral=1.0)
    pad_size: Tensor = number(0.8, 1.3, neutral=1.0)
    bridge_width: Tensor = number(0.7, 1.4, neutral=1.0)
    nose_size: Tensor = number(0.7, 1.5, neutral=1.0)
    nose_height: Tensor = number(-0.3, 1.0, neutral=0.0)
    smile: Tensor = number(-1.0, 1.0, neutral=0.0)
    tongue: Tensor = number(0.0, 1.0, neutral=0.0)
    ruff: Tensor = number(0.0, 1.0, neutral=0.0)
    mane: Tensor = number(0.0, 1.0, neutral=0.0)
    fur_length: Tensor = number(0.0, 1.0, neutral=0.0)
    points: Tensor = number(0.0, 1.0, neutral=0.0)
    calico: Tensor = number(0.0, 1.0, neutral=0.0)
    patch_place: Tensor = number(0.0, 1.0, neutral=0.0)
    blaze_width: Tensor = number(0.3, 2.0, neutral=1.0)
    blaze_height: Tensor = number(-1.0, 1.0, neutral=0.0)
    bib: Tensor = number(0.0, 1.0, neutral=0.0)
    eye_patch: Tensor = number(0.0, 1.0, neutral=0.0)
    odd_eyes: Tensor = number(0.0, 1.0, neutral=0.0)
    iris_ring: Tensor = number(0.0, 1.0, neutral=0.0)
    inner_ear_color: Tensor = color(neutral=(0.93, 0.64, 0.62))
    point_color: Tensor = color(neutral=(0.26, 0.18, 0.15))
    third_color: Tensor = color(neutral=(0.90, 0.50, 0.17))
    odd_eye_color: Tensor = color(neutral=(0.22, 0.56, 0.93))


def _luminance(color: Tensor) -> Tensor:  # [B, 3] -> [B, 1]
    return color @ color.new_tensor([[0.30], [0.59], [0.11]])


def _contrasting_color(color: Tensor, fur_color: Tensor) -> Tensor:  # each [B, 3]
    """Move a colour close to the fur's towards white on dark fur, towards dark on light fur."""
    light, dark = color.new_tensor([0.95, 0.93, 0.90]), color.new_tensor([0.20, 0.15, 0.13])
    target = torch.lerp(light, dark, smoothstep(_luminance(fur_color), 0.4, 0.6))
    closeness = 1 - smoothstep((color - fur_color).norm(dim=-1, keepdim=True), 0.25, 0.5)
    return torch.lerp(color, target, closeness)


def _second_color(
    color: Tensor,  # [B, 3] sampled from the palette
    fur_color: Tensor,  # [B, 3]
    tabby: Tensor,  # [B]
    bicolor: Tensor,  # [B]
) -> Tensor:  # [B, 3]
    """Return the second colour: mostly a shade of the fur for stripes, white for dark bicolors."""
    color = _contrasting_color(color, fur_color)
    is_light = smoothstep(_luminance(fur_color), 0.13, 0.25)
    shade = torch.lerp(fur_color * 0.6 + 0.22, fur_color * 0.48, is_light)
    color = torch.lerp(color, shade, 0.75 * tabby[:, None])
    white = color.new_tensor([0.95, 0.93, 0.90])
    is_dark = 1 - smoothstep(_luminance(fur_color), 0.62, 0.8)
    return torch.lerp(color, white, 0.8 * bicolor[:, None] * is_dark)


def _pattern_strength(uniform: Tensor, low: float, high: float) -> Tensor:
    """Rise from 0 to 1 and fall back within (low, high), so that patterns meet at plain fur."""
    ramp = 0.025
    return smoothstep(uniform, low, low + ramp) * (1 - smoothstep(uniform, high - ramp, high))


def cat_parameters_from_uniforms(
    uniforms: Tensor,  # [B, NUM_CAT_ATTRIBUTES] in 0..1
) -> CatParameters:
    """Map one uniform number per attribute to cats, with each attribute's distribution."""
    assert uniforms.shape[-1] == NUM_CAT_ATTRIBUTES, uniforms.shape
    u = uniforms.unbind(-1)
    fur_color = palette_path(u[10], FUR_PALETTE) * (0.9 + 0.15 * u[19])[:, None]
    tabby, bicolor = _pattern_strength(u[12], 0.22, 0.54), _pattern_strength(u[12], 0.54, 0.80)
    second = _second_color(palette_path(u[11], FUR_PALETTE), fur_color, tabby, bicolor)
    ear_tint = smoothstep(u[14], 0.45, 0.6)[:, None]
    return CatParameters(
        ear_size=0.72 + 0.6 * u[0],
        ear_roundness=smoothstep(u[1], 0.1, 0.9),
        ear_spread=0.12 + 0.45 * u[2],
        eye_size=0.82 + 0.4 * u[3],
        eye_spacing=0.92 + 0.18 * u[4],
        muzzle_size=0.86 + 0.32 * u[6],
        cheek_width=0.86 + 0.32 * u[7],
        head_width=0.93 + 0.14 * u[8],
        chin=u[9],
        mouth_width=0.85 + 0.35 * u[20],
        pupil_width=u[21],
        tabby=tabby,
        bicolor=bicolor,
        spots=_pattern_strength(u[12], 0.80, 1.03),
        pattern_scale=0.8 + 0.45 * u[13],
        fur_color=fur_color,
        second_color=second,
        ear_color=torch.lerp(fur_color, palette_path(u[15], FUR_PALETTE), ear_tint),
        eye_color=palette_path(u[5], EYE_PALETTE),
        nose_color=palette_path(u[16], NOSE_PALETTE),
        background_color=background_path(u[17], u[18]),
    )


def cat_parameters_from_latent(
    z: Tensor,  # [B, Z] standard normal, Z >= NUM_CAT_ATTRIBUTES
) -> CatParameters:
    """Return the cat of a latent, a fixed function of z for a given Z."""
    return cat_parameters_from_uniforms(
        uniforms_from_latent(z, NUM_CAT_ATTRIBUTES, _PROJECTION_SEED)
    )
