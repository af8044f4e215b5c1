"""Options as frozen dataclasses whose annotations say which values are allowed.

An option is declared once: its type and bounds are the field's annotation, its default is the
field's, and its description is a line under `Args:` of the class. The command line, its help and
the composition of YAML files are derived from these.
"""

import math
import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mate3d.errors import UserError

OptionsT = TypeVar("OptionsT")

# Bounds this large are not worth showing.
_MANY = 10**6


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; in an annotation, the allowed ones.

    Args:
        low: Smallest number.
        high: Largest number.
        with_low: Whether `low` itself is allowed.
        with_high: Whether `high` itself is allowed.
    """

    low: float = -math.inf
    high: float = math.inf
    with_low: bool = True
    with_high: bool = True

    def __contains__(self, value: float) -> bool:
        is_above = value >= self.low if self.with_low else value > self.low
        return is_above and (value <= self.high if self.with_high else value < self.high)

    def __str__(self) -> str:
        low, high = _plain(self.low), _plain(self.high)
        if math.isinf(self.high):
            return f"of at least {low}" if self.with_low else f"above {low}"
        if not self.with_low:
            return f"above {low} and at most {high}"
        return f"from {low} to {'' if self.with_high else 'below '}{high}"


def AtLeast(low: float) -> Range:  # noqa: N802, as an annotation it reads like a type
    """Return the range of numbers from `low` upwards."""
    return Range(low)


def Above(low: float, up_to: float = math.inf) -> Range:  # noqa: N802
    """Return the range of numbers above `low`, up to `up_to`."""
    return Range(low, up_to, with_low=False)


class _FilePath:
    """Marks text as the path of a file or folder, in which `~` means the home folder."""


FilePath = Annotated[str, _FilePath()]
PositiveInt = Annotated[int, AtLeast(1)]
NonNegativeInt = Annotated[int, AtLeast(0)]
PositiveFloat = Annotated[float, Above(0)]
NonNegativeFloat = Annotated[float, AtLeast(0)]
Share = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp16"]


class OptionError(UserError):
    """A value that an option does not allow; the message names the option by its full path."""

    def __init__(self, name: str, value: object, advice: str):
        super().__init__(f"{name}={as_text(value)}; {advice}")
        self.name, self.value, self.advice = name, value, advice

    def within(self, path: str) -> "OptionError":
        """Return the same error of an option that belongs to `path`, such as "edit."."""
        return OptionError(f"{path}{self.name}", self.value, self.advice)


@dataclass(frozen=True)
class Options:
    """Base of all options: checks every field against its annotation.

    Lists become tuples, integers become floats where the annotation says so. Checks that involve
    several fields belong in the subclass's `__post_init__`, after this one.

    Raises:
        OptionError: Names the field and the allowed values.
    """

    def __post_init__(self):
        for name, hint in option_hints(type(self)).items():
            value = getattr(self, name)
            try:
                value = _checked(hint, value)
            except OptionError as error:
                raise error.within(f"{name}.") from None
            except UserError:
                raise
            except ValueError:
                raise OptionError(name, value, f"use {describe(hint)}") from None
            object.__setattr__(self, name, value)


@cache
def option_hints(options_type: type) -> Mapping[str, Any]:
    """Return the annotation of every field, `Annotated` ones in full."""
    hints = get_type_hints(options_type, include_extras=True)
    return {field.name: hints[field.name] for field in fields(options_type) if field.init}


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return options as plain values that YAML can hold."""
    return _plain_values(asdict(config))


def config_from_dict(
    config_type: type[OptionsT], values: Mapping[str, Any], path: str = ""
) -> OptionsT:
    """Build options from plain values, groups of options included.

    Args:
        config_type: The class of the options.
        values: By name; missing ones keep their defaults.
        path: Where these options belong in those of a script, such as "edit.", for messages.

    Raises:
        UserError: If a key is unknown or a value is not allowed.
    """
    hints = option_hints(config_type)
    if unknown := sorted(set(values) - set(hints)):
        raise UserError(
            f"unknown keys {unknown} for {config_type.__name__}; allowed: {', '.join(hints)}"
        )
    arguments = {}
    for name, value in values.items():
        group = group_type(hints[name])
        if group is not None and isinstance(value, Mapping):
            value = config_from_dict(group, value, f"{path}{name}.")
        arguments[name] = tuple(value) if isinstance(value, list) else value
    try:
        return config_type(**arguments)
    except OptionError as error:
        raise error.within(path) from None


def group_type(hint: Any) -> type | None:
    """Return the dataclass that an annotation names, alone or in a union; None for others."""
    return next((part for part in alternatives_of(hint) if is_dataclass(part)), None)


def describe(hint: Any) -> str:
    """Describe the values that an annotation allows, such as "an integer of at least 1 or null"."""
    parts = [part for part in alternatives_of(hint) if part is not type(None)]
    or_null = " or null" if len(parts) < len(alternatives_of(hint)) else ""
    return " or ".join(map(_describe_one, parts)) + or_null


def limits(hint: Any) -> str:
    """Describe the limits of an annotation briefly, such as "fp32, bf16, fp16" or "from 0 to 1"."""
    found = []
    for part in alternatives_of(hint):
        base = base_of(part)
        if get_origin(base) is tuple:
            found.append(limits(get_args(base)[0]))
        elif get_origin(base) is Literal:
            found += map(str, get_args(base))
        found += [str(bound) for bound in _ranges(part) if bound.high < _MANY]
    return ", ".join(filter(None, found))


def bounds_of(hint: Any) -> list[Any]:
    """Return the metadata of an `Annotated` type."""
    return list(get_args(hint)[1:]) if get_origin(hint) is Annotated else []


def base_of(hint: Any) -> Any:
    """Return an annotation without its bounds."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def as_text(value: object) -> str:
    """Format a value as on the command line."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(as_text, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def alternatives_of(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the one annotation."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _describe_one(hint: Any) -> str:
    base, bounds = base_of(hint), " ".join(map(str, _ranges(hint)))
    if get_origin(base) is Literal:
        return f"one of: {', '.join(map(str, get_args(base)))}"
    if get_origin(base) is tuple:
        items = get_args(base)
        length = "" if items[-1] is Ellipsis else f" of {len(items)}"
        return f"a list{length}, each item {describe(items[0])}"
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    names[dict] = "values by name such as {a:1}"
    return f"{names.get(get_origin(base) or base, 'a group of options')} {bounds}".strip()


def _ranges(hint: Any) -> list[Range]:
    return [bound for bound in bounds_of(hint) if isinstance(bound, Range)]


def _checked(hint: Any, value: Any) -> Any:
    """Return a value converted to its annotated type.

    Raises:
        ValueError: If it does not fit.
    """
    alternatives = alternatives_of(hint)
    if len(alternatives) > 1:
        return _checked_any(alternatives, value)
    base = base_of(hint)
    value = _of_type(base, value)
    if any(value not in bound for bound in _ranges(hint)):
        raise ValueError(value)
    if any(isinstance(bound, _FilePath) for bound in bounds_of(hint)) and value.startswith("~"):
        return os.path.expanduser(value)
    return value


def _checked_any(alternatives: Sequence[Any], value: Any) -> Any:
    for alternative in alternatives:
        try:
            return _checked(alternative, value)
        except ValueError:
            continue
    raise ValueError(value)


def _of_type(base: Any, value: Any) -> Any:
    origin = get_origin(base) or base
    if origin is tuple:
        return _checked_tuple(get_args(base), value)
    if is_dataclass(origin) and isinstance(value, Mapping):
        return config_from_dict(origin, value)
    if origin is Literal:
        # 1 equals True, so the types are compared too.
        if not any(value == choice and type(value) is type(choice) for choice in get_args(base)):
            raise ValueError(value)
        return value
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if origin is float and is_number and math.isfinite(value):
        return float(value)
    if origin is int and is_number and isinstance(value, Integral):
        return int(value)
    if origin in (int, float) or (isinstance(origin, type) and not isinstance(value, origin)):
        raise ValueError(value)
    return value


def _checked_tuple(items: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(value)
    if items[-1] is Ellipsis:
        items = items[:1] * len(value)
    if len(items) != len(value):
        raise ValueError(value)
    return tuple(map(_checked, items, value))


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:g}"


def _plain_values(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain_values(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_values(each) for each in value]
    return value
