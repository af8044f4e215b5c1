"""Varied cats: a second mapping from latents that varies all attributes, with more coats."""

from dataclasses import replace

import torch
from torch import Tensor

from mate3d.procedural.attributes import palette_path, smoothstep, uniforms_from_latent
from mate3d.procedural.cats.cat import (
    EYE_PALETTE,
    NUM_CAT_ATTRIBUTES,
    CatParameters,
    cat_parameters_from_uniforms,
)

_NUM_MORE = 30
NUM_VARIED_CAT_ATTRIBUTES = NUM_CAT_ATTRIBUTES + _NUM_MORE
_PROJECTION_SEED = 20241
_INNER_EARS = {"dark": (0.42, 0.27, 0.25), "skin": (0.85, 0.62, 0.52), "pink": (0.93, 0.64, 0.62)}
POINT_PALETTE = {"seal": (0.24, 0.16, 0.13), "blue": (0.42, 0.43, 0.48), "red": (0.85, 0.50, 0.24)}
_CREAM, _WHITE, _BLACK = (0.93, 0.87, 0.77), (0.95, 0.94, 0.92), (0.12, 0.11, 0.12)
_ORANGE, _GREY, _PALE = (0.90, 0.50, 0.17), (0.50, 0.51, 0.55), (0.93, 0.80, 0.60)


def _rare(uniform: Tensor, share: float) -> Tensor:
    """Return 0 for most cats, and up to 1 for this fraction of them."""
    return smoothstep(uniform, 1 - share, 1 - 0.4 * share)


def _towards(color: Tensor, target: tuple[float, float, float], weight: Tensor) -> Tensor:
    return torch.lerp(color, color.new_tensor(target).expand_as(color), weight[:, None])


def _paint_kinds(
    cats: CatParameters,
    points: Tensor,  # [B] in 0..1, like all others
    calico: Tensor,
    darkness: Tensor,
    dilution: Tensor,
) -> CatParameters:
    """Set the colours of colour-point and calico cats, and remove their other patterns."""
    plain = (1 - smoothstep(points, 0.0, 0.3)) * (1 - smoothstep(calico, 0.0, 0.3))
    # Calicos are white with patches of black and orange; tortoiseshells lack the white.
    base = _towards(cats.fur_color * 0 + cats.fur_color.new_tensor(_WHITE), _BLACK, darkness)
    base = _towards(base, _ORANGE, 0.28 * darkness)
    fur = torch.lerp(cats.fur_color, base, calico[:, None])
    dark = _towards(fur * 0 + fur.new_tensor(_BLACK), _GREY, dilution)
    light = _towards(fur * 0 + fur.new_tensor(_ORANGE), _PALE, dilution)
    fur = _towards(fur, _CREAM, points)
    return replace(
        cats,
        tabby=cats.tabby * plain,
        bicolor=cats.bicolor * plain,
        spots=cats.spots * plain,
        points=points,
        calico=calico,
        fur_color=fur,
        second_color=torch.lerp(cats.second_color, dark, calico[:, None]),
        third_color=light,
        ear_color=torch.lerp(cats.ear_color, fur, torch.maximum(points, calico)[:, None]),
        eye_color=_towards(cats.eye_color, EYE_PALETTE["blue"], 0.9 * points),
    )


def varied_cat_parameters_from_uniforms(
    uniforms: Tensor,  # [B, NUM_VARIED_CAT_ATTRIBUTES] in 0..1
) -> CatParameters:
    """Map one uniform number per attribute to cats, with each attribute's distribution."""
    assert uniforms.shape[-1] == NUM_VARIED_CAT_ATTRIBUTES, uniforms.shape
    cats = cat_parameters_from_uniforms(uniforms[:, :NUM_CAT_ATTRIBUTES])
    u = uniforms[:, NUM_CAT_ATTRIBUTES:].unbind(-1)
    cats = _paint_kinds(
        cats,
        points=1 - smoothstep(u[18], 0.10, 0.16),
        calico=_rare(u[18], 0.20),
        darkness=smoothstep(u[28], 0.50, 0.62),
        dilution=smoothstep(u[27], 0.65, 0.80),
    )
    fold, fur_length = _rare(u[3], 0.16), _rare(u[17], 0.62)
    flat = _rare(u[8], 0.22)
    patterned = torch.stack([cats.calico, cats.points, cats.bicolor]).amax(dim=0)
    odd_eyes = _rare(u[24], 0.16) * (1 - cats.points)
    return replace(
        cats,
        ear_width=0.82 + 0.40 * u[0],
        ear_spacing=0.88 + 0.26 * u[1],
        ear_turn=-0.25 + 0.65 * u[2],
        ear_fold=fold,
        # Folded ears are small, and their tips point down.
        ear_size=cats.ear_size * (1 - 0.18 * fold).clamp(min=0.0) + 0.13 * fold,
        ear_tufts=_rare(u[4], 0.30) * (1 - fold),
        eyelids=0.15 + 0.60 * u[5],
        eye_slant=-0.10 + 0.45 * u[6],
        head_height=0.94 + 0.12 * u[7],
        muzzle_length=(0.70 + 0.80 * u[8]) * (1 - flat),
        pad_size=0.88 + 0.30 * u[9],
        bridge_width=0.80 + 0.45 * u[10],
        nose_size=0.80 + 0.45 * u[11],
        nose_height=(0.7 + 0.3 * u[12]) * flat + (0.35 * u[12] - 0.15) * (1 - flat),
        smile=2 * u[13] - 1,
        tongue=_rare(u[14], 0.16),
        ruff=_rare(u[15], 0.45) * (0.3 + 0.7 * fur_length),
        mane=_rare(u[16], 0.70) * fur_length,
        fur_length=fur_length,
        patch_place=u[19],
        blaze_width=0.45 + 1.15 * u[20],
        blaze_height=-0.7 + 1.4 * u[21],
        bib=_rare(u[22], 0.30) * (1 - patterned),
        eye_patch=_rare(u[23], 0.14) * (1 - patterned),
        odd_eyes=odd_eyes,
        iris_ring=_rare(u[25], 0.40),
        inner_ear_color=palette_path(u[26], _INNER_EARS),
        point_color=palette_path(u[27], POINT_PALETTE),
        odd_eye_color=_odd_eye_color(cats.eye_color, u[29]),
    )


def _odd_eye_color(eye_color: Tensor, uniform: Tensor) -> Tensor:
    """Return a colour different from the other eye's: blue, or copper to amber for blue eyes."""
    blue = eye_color.new_tensor(EYE_PALETTE["blue"])
    is_blue = 1 - smoothstep((eye_color - blue).norm(dim=-1), 0.25, 0.5)
    other = palette_path(uniform, {name: EYE_PALETTE[name] for name in ("copper", "amber")})
    return torch.lerp(blue.expand_as(other), other, is_blue[:, None])


def varied_cat_parameters_from_latent(
    z: Tensor,  # [B, Z] standard normal, Z >= NUM_VARIED_CAT_ATTRIBUTES
) -> CatParameters:
    """Return the varied cat of a latent, a fixed function of z for a given Z."""
    return varied_cat_parameters_from_uniforms(
        uniforms_from_latent(z, NUM_VARIED_CAT_ATTRIBUTES, _PROJECTION_SEED)
    )
