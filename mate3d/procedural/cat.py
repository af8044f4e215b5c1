"""Attributes of a procedural cat, their distributions, and the fixed map from a latent to them."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from mate3d.layers import normalize_second_moment

NUM_CAT_ATTRIBUTES = 22
_PROJECTION_SEED = 20240

# Palettes run from one extreme to the other, so that a colour changes mostly one way with its
# latent direction; a network finds such a direction far sooner than one it must go back and forth.
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
class CatParameters:
    """A batch of cats. Sizes are factors of the average cat; colours are RGB in 0..1.

    Args:
        ear_size: Length and width of the ears, 0.7..1.35.
        ear_roundness: 0 is a pointed tip, 1 a round one.
        ear_spread: Outward tilt of the ears in radians, 0.1..0.6.
        eye_size: 0.8..1.25.
        eye_spacing: 0.9..1.12.
        muzzle_size: 0.85..1.2.
        cheek_width: 0.85..1.2.
        head_width: 0.92..1.08.
        chin: 0 is a receding chin, 1 a strong one.
        mouth_width: 0.85..1.2.
        pupil_width: 0 is a slit, 1 nearly round.
        tabby: Strength of stripes, 0..1. At most one pattern is above 0 in sampled cats.
        bicolor: Strength of the second colour on blaze, muzzle and chest, 0..1.
        spots: Strength of spots, 0..1.
        pattern_scale: Coarseness of stripes and spots, extent of the second colour, 0.8..1.25.
    """

    ear_size: Tensor  # [B]
    ear_roundness: Tensor  # [B]
    ear_spread: Tensor  # [B]
    eye_size: Tensor  # [B]
    eye_spacing: Tensor  # [B]
    muzzle_size: Tensor  # [B]
    cheek_width: Tensor  # [B]
    head_width: Tensor  # [B]
    chin: Tensor  # [B]
    mouth_width: Tensor  # [B]
    pupil_width: Tensor  # [B]
    tabby: Tensor  # [B]
    bicolor: Tensor  # [B]
    spots: Tensor  # [B]
    pattern_scale: Tensor  # [B]
    fur_color: Tensor  # [B, 3]
    second_color: Tensor  # [B, 3]
    ear_color: Tensor  # [B, 3]
    eye_color: Tensor  # [B, 3]
    nose_color: Tensor  # [B, 3]
    background_color: Tensor  # [B, 3]

    def __len__(self) -> int:
        return len(self.ear_size)

    def __getitem__(self, index: slice | Tensor) -> "CatParameters":
        return self._map(lambda value: value[index])

    def to(self, device: torch.device | str) -> "CatParameters":
        """Return the same cats on another device."""
        return self._map(lambda value: value.to(device))

    def _map(self, function) -> "CatParameters":
        return CatParameters(**{f.name: function(getattr(self, f.name)) for f in fields(self)})


def _smoothstep(value: Tensor, low: float, high: float) -> Tensor:
    ramp = ((value - low) / (high - low)).clamp(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _palette_path(
    uniform: Tensor,  # [B] in 0..1
    palette: dict[str, tuple[float, float, float]],
) -> Tensor:  # [B, 3]
    """Walk along a palette, resting on each colour for 7/10 of its share of the way."""
    colors = uniform.new_tensor(list(palette.values()))
    position = uniform * len(colors)
    color = colors[0].expand(len(uniform), 3)
    for index in range(1, len(colors)):
        step = _smoothstep(position, index - 0.15, index + 0.15)[:, None]
        color = color + (colors[index] - colors[index - 1]) * step
    return color


def _luminance(color: Tensor) -> Tensor:  # [B, 3] -> [B, 1]
    return color @ color.new_tensor([[0.30], [0.59], [0.11]])


def _contrasting_color(color: Tensor, fur_color: Tensor) -> Tensor:  # each [B, 3]
    """Move a colour that is close to the fur's towards white on dark fur, dark on light fur."""
    light, dark = color.new_tensor([0.95, 0.93, 0.90]), color.new_tensor([0.20, 0.15, 0.13])
    target = torch.lerp(light, dark, _smoothstep(_luminance(fur_color), 0.4, 0.6))
    closeness = 1 - _smoothstep((color - fur_color).norm(dim=-1, keepdim=True), 0.25, 0.5)
    return torch.lerp(color, target, closeness)


def _second_color(
    color: Tensor,  # [B, 3] drawn from the palette
    fur_color: Tensor,  # [B, 3]
    tabby: Tensor,  # [B]
    bicolor: Tensor,  # [B]
) -> Tensor:  # [B, 3]
    """Stripes are mostly a shade of the fur; two-coloured cats mostly have white on dark fur."""
    color = _contrasting_color(color, fur_color)
    is_light = _smoothstep(_luminance(fur_color), 0.13, 0.25)
    shade = torch.lerp(fur_color * 0.6 + 0.22, fur_color * 0.48, is_light)
    color = torch.lerp(color, shade, 0.75 * tabby[:, None])
    white = color.new_tensor([0.95, 0.93, 0.90])
    is_dark = 1 - _smoothstep(_luminance(fur_color), 0.62, 0.8)
    return torch.lerp(color, white, 0.8 * bicolor[:, None] * is_dark)


def _background(hue: Tensor, tint: Tensor) -> Tensor:  # [B], [B] -> [B, 3]
    # Half of the colour circle, for the reason given at the palettes.
    phase = 0.5 * hue[:, None] + hue.new_tensor([0.0, -1 / 3, 1 / 3])
    saturation = 0.105 * _smoothstep(tint, 0.2, 0.5)
    return (0.93 - 0.75 * saturation)[:, None] + saturation[:, None] * (2 * math.pi * phase).cos()


def _pattern_strength(uniform: Tensor, low: float, high: float) -> Tensor:
    """Rise from 0 to 1 and fall back inside (low, high), so that kinds meet at plain fur."""
    ramp = 0.025
    return _smoothstep(uniform, low, low + ramp) * (1 - _smoothstep(uniform, high - ramp, high))


def cat_parameters_from_uniforms(
    uniforms: Tensor,  # [B, NUM_CAT_ATTRIBUTES] in 0..1
) -> CatParameters:
    """Turn one uniform number per attribute into cats, by each attribute's own distribution."""
    assert uniforms.shape[-1] == NUM_CAT_ATTRIBUTES, uniforms.shape
    u = uniforms.unbind(-1)
    fur_color = _palette_path(u[10], FUR_PALETTE) * (0.9 + 0.15 * u[19])[:, None]
    tabby, bicolor = _pattern_strength(u[12], 0.22, 0.54), _pattern_strength(u[12], 0.54, 0.80)
    second = _second_color(_palette_path(u[11], FUR_PALETTE), fur_color, tabby, bicolor)
    ear_tint = _smoothstep(u[14], 0.45, 0.6)[:, None]
    return CatParameters(
        ear_size=0.72 + 0.6 * u[0],
        ear_roundness=_smoothstep(u[1], 0.1, 0.9),
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
        ear_color=torch.lerp(fur_color, _palette_path(u[15], FUR_PALETTE), ear_tint),
        eye_color=_palette_path(u[5], EYE_PALETTE),
        nose_color=_palette_path(u[16], NOSE_PALETTE),
        background_color=_background(u[17], u[18]),
    )


def cat_parameters_from_latent(
    z: Tensor,  # [B, Z] standard normal, Z >= NUM_CAT_ATTRIBUTES
) -> CatParameters:
    """Return the cat that belongs to a latent: a fixed function of z for a given Z.

    A fixed orthonormal projection gives one standard normal number an attribute; the normal
    distribution function makes them uniform.
    """
    assert z.shape[-1] >= NUM_CAT_ATTRIBUTES, z.shape
    generator = torch.Generator().manual_seed(_PROJECTION_SEED)
    gaussian = torch.randn(
        z.shape[-1], NUM_CAT_ATTRIBUTES, generator=generator, dtype=torch.float64
    )
    projection = torch.linalg.qr(gaussian).Q.to(device=z.device, dtype=z.dtype)
    return cat_parameters_from_uniforms(torch.special.ndtr(z @ projection))


def cat_parameters_from_direction(
    z: Tensor,  # [B, Z], Z >= NUM_CAT_ATTRIBUTES
) -> CatParameters:
    """Return the cat that a generator should make of a latent.

    Mapping networks see the direction of z only, so its length must not matter here either.
    """
    return cat_parameters_from_latent(normalize_second_moment(z))
