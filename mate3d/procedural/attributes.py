"""Attributes of procedural portraits: declaring, setting, sampling and naming them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from mate3d.errors import UserError

Palette = dict[str, tuple[float, float, float]]
Number = float | list[float]
Parameters = TypeVar("Parameters", bound="PortraitParameters")

BACKGROUND_PALETTE: Palette = {
    "white": (0.93, 0.93, 0.93),
    "pink": (0.96, 0.78, 0.78),
    "yellow": (0.90, 0.90, 0.72),
    "green": (0.78, 0.96, 0.78),
    "turquoise": (0.72, 0.90, 0.90),
    "blue": (0.78, 0.78, 0.96),
    "purple": (0.90, 0.72, 0.90),
}


def number(low: float, high: float, *, neutral: Any = None, size: int = 1) -> Any:
    """Declare a field of `PortraitParameters` with one number per portrait.

    Args:
        low: Minimum value that users may set.
        high: Maximum value that users may set.
        neutral: Default of the constructor argument; None makes it required.
        size: Numbers per portrait; see `color`.
    """
    metadata = {"size": size, "low": low, "high": high, "neutral": neutral}
    return field(metadata=metadata, **({} if neutral is None else {"default": None}))


def color(*, neutral: tuple[float, float, float] | None = None) -> Any:
    """Declare a field of `PortraitParameters` with one RGB colour in 0..1 per portrait."""
    return number(0.0, 1.0, neutral=neutral, size=3)


@dataclass
class PortraitParameters:
    """A batch of portraits as numbers; subclasses declare only `number()` and `color()` fields."""

    def __post_init__(self) -> None:
        first = getattr(self, fields(self)[0].name)
        for declared in fields(self):
            if getattr(self, declared.name) is None:
                neutral = first.new_tensor(declared.metadata["neutral"])
                shape = (len(first), *neutral.shape)
                setattr(self, declared.name, neutral.expand(shape).clone())

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self: Parameters, index: slice | Tensor) -> Parameters:
        return type(self)(**{name: value[index] for name, value in vars(self).items()})

    def columns(self) -> dict[str, Tensor]:
        """Return the numbers as [B, 1], without the colours."""
        return {name: value[:, None] for name, value in vars(self).items() if value.ndim == 1}

    def colors(self) -> dict[str, Tensor]:
        """Return the colours as [B, 3, 1], without the numbers."""
        return {name: value[..., None] for name, value in vars(self).items() if value.ndim == 2}

    def varied(self) -> frozenset[str]:
        """Return the names of the numbers that are not neutral for the whole batch."""
        optional = {
            f.name: f.metadata["neutral"]
            for f in fields(self)
            if f.metadata["size"] == 1 and f.metadata["neutral"] is not None
        }
        values = torch.stack([getattr(self, name) for name in optional])
        neutral = values.new_tensor(list(optional.values()))[:, None]
        # A single comparison, since each result forces a synchronization on accelerators.
        is_varied = (values != neutral).any(dim=1).tolist()
        return frozenset(name for name, flag in zip(optional, is_varied, strict=True) if flag)


def join_portraits(parts: Sequence[Parameters]) -> Parameters:
    """Concatenate several batches of one kind of portrait."""
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return type(parts[0])(*map(torch.cat, columns))


def attribute_rows(parameters: PortraitParameters) -> list[dict[str, Number]]:
    """Return each portrait's attributes by name; colours are lists of three."""
    rows = zip(*(column.tolist() for column in vars(parameters).values()), strict=True)
    return [dict(zip(vars(parameters), row, strict=True)) for row in rows]


def set_attributes(
    parameters: Parameters,
    values: Mapping[str, float | Sequence[float]] | None = None,
    factors: Mapping[str, float] | None = None,
) -> Parameters:
    """Return the same portraits with some attributes set, then some multiplied.

    Args:
        values: One number, or three for a colour, set on every portrait of the batch.
        factors: Multipliers of numbers. Results may leave the range allowed for `values`, so that
            an edit such as "ears 1.5x" works on every head; only fractions (range up to 1) are
            clamped.

    Raises:
        UserError: If a name is unknown, a value is out of range or has the wrong length, or a
            factor is not a positive number or belongs to a colour.
    """
    declared = {f.name: f for f in fields(parameters)}
    changes = {}
    for name, value in (values or {}).items():
        attribute = _find(declared, name)
        changes[name] = _checked(attribute, value, getattr(parameters, name))
    for name, factor in (factors or {}).items():
        metadata = _find(declared, name).metadata
        if metadata["size"] != 1:
            raise UserError(f"factors: {name} is a colour; only numbers can be multiplied")
        if not _is_number(factor) or not factor > 0:
            raise UserError(f"factors: {name}={factor}; use a finite number above 0")
        scaled = changes.get(name, getattr(parameters, name)) * factor
        changes[name] = scaled.clamp(max=1) if metadata["high"] == 1 else scaled
    return replace(parameters, **changes)


def _find(declared: dict[str, Field], name: str) -> Field:
    if name not in declared:
        raise UserError(f"unknown attribute '{name}'; use one of: {', '.join(declared)}")
    return declared[name]


def _checked(attribute: Field, value: float | Sequence[float], like: Tensor) -> Tensor:
    name, metadata = attribute.name, attribute.metadata
    low, high, size = metadata["low"], metadata["high"], metadata["size"]
    kind = "a number" if size == 1 else "three numbers"
    is_sequence = isinstance(value, Sequence) and not isinstance(value, str)
    entries = list(value) if is_sequence else [value]
    is_fitting = len(entries) == size and all(_is_number(entry) for entry in entries)
    if not is_fitting or not all(low <= entry <= high for entry in entries):
        raise UserError(f"attributes: {name}={value}; use {kind} in {low:g}..{high:g}")
    return like.new_tensor(entries[0] if size == 1 else entries).expand_as(like).clone()


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def uniforms_from_latent(
    z: Tensor,  # [B, Z] standard normal, Z >= num_attributes
    num_attributes: int,
    seed: int,
) -> Tensor:  # [B, num_attributes] in 0..1
    """Return independent uniform numbers, a fixed function of z for given Z and seed.

    A fixed orthonormal projection gives one standard normal number per attribute; the normal CDF
    makes them uniform.

    Raises:
        UserError: If z has too few entries.
    """
    if z.shape[-1] < num_attributes:
        raise UserError(
            f"latents have {z.shape[-1]} entries; these portraits need at least {num_attributes}"
        )
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(z.shape[-1], num_attributes, generator=generator, dtype=torch.float64)
    projection = torch.linalg.qr(gaussian).Q.to(device=z.device, dtype=z.dtype)
    return torch.special.ndtr(z @ projection)


def smoothstep(value: Tensor, low: float, high: float) -> Tensor:
    """Rise smoothly from 0 at `low` to 1 at `high`."""
    ramp = ((value - low) / (high - low)).clamp(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def palette_path(
    uniform: Tensor,  # [B] in 0..1
    palette: Palette,
) -> Tensor:  # [B, 3]
    """Interpolate along a palette, holding each colour for 7/10 of its section.

    Palettes should run from one extreme to the other, so that a colour changes nearly
    monotonically with its latent direction, which a network learns much faster.
    """
    colors = uniform.new_tensor(list(palette.values()))
    position = uniform * len(colors)
    walked = colors[0].expand(len(uniform), 3)
    for index in range(1, len(colors)):
        step = smoothstep(position, index - 0.15, index + 0.15)[:, None]
        walked = walked + (colors[index] - colors[index - 1]) * step
    return walked


def background_path(
    hue: Tensor,  # [B] in 0..1
    tint: Tensor,  # [B] in 0..1
) -> Tensor:  # [B, 3]
    """Return light background colours, near white where `tint` is low."""
    # Half of the colour wheel; see `palette_path` for the reason.
    phase = 0.5 * hue[:, None] + hue.new_tensor([0.0, -1 / 3, 1 / 3])
    saturation = 0.105 * smoothstep(tint, 0.2, 0.5)
    return (0.93 - 0.75 * saturation)[:, None] + saturation[:, None] * (2 * math.pi * phase).cos()


def color_name(
    color: Tensor,  # [3] in 0..1
    palette: Palette,
) -> str:
    """Return the name of the nearest palette colour."""
    distances = (torch.tensor(list(palette.values())) - color.cpu()).norm(dim=-1)
    return list(palette)[int(distances.argmin())]


def step_word(value: float, *steps: float | str) -> str:
    """Return the word for a value's interval; `steps` alternate: word, limit, word, ..."""
    word = steps[0]
    for limit, following in zip(steps[1::2], steps[2::2], strict=True):
        word = following if value > limit else word
    return word


def join_words(*words: str) -> str:
    """Join the non-empty words with spaces."""
    return " ".join(word for word in words if word)
