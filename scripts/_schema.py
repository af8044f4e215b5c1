"""The type and description of each option, read from a script's options dataclass.

OmegaConf supports neither `Literal` nor `Annotated` and takes frozen dataclasses as read-only, so
Hydra composes a plain twin of the dataclass, which has the same names, defaults and basic types.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal, Optional, Union, get_args, get_origin

from mate3d.options import Options, alternatives_of, base_of, group_type, option_hints


@dataclass(frozen=True)
class Option:
    """One option of a script, or a group of them.

    Args:
        path: Its name, prefixed with its groups: "train.batch_size".
        hint: Its annotation.
        description: Its line under `Args:`.
    """

    path: str
    hint: Any
    description: str


def options_type(script: str) -> type[Options]:
    """Return the dataclass of all options of a script."""
    return import_module(f"scripts.{script}").OPTIONS


@cache
def find_options(kind: type, prefix: str = "") -> dict[str, Option]:
    """Return all options of a dataclass by path; a group comes before its options."""
    return {option.path: option for option in _walk(kind, prefix)}


def _walk(kind: type, prefix: str) -> Iterator[Option]:
    descriptions = _read_descriptions(kind)
    for name, hint in option_hints(kind).items():
        yield Option(f"{prefix}{name}", hint, descriptions.get(name, ""))
        if group := group_type(hint):
            yield from _walk(group, f"{prefix}{name}.")


def read_summary(kind: type) -> str:
    """Return a class's docstring above its arguments."""
    return inspect.cleandoc(kind.__doc__ or "").partition("\nArgs:")[0].strip()


def _read_descriptions(kind: type) -> dict[str, str]:
    """Return the lines under `Args:` of a class and its bases by the names of the fields."""
    found = {}
    for base in reversed(kind.__mro__):
        arguments = inspect.cleandoc(base.__doc__ or "").partition("\nArgs:\n")[2]
        for name, text in re.findall(r"^    (\w+): ((?:.+\n?(?:     +.+\n?)*))", arguments, re.M):
            found[name] = " ".join(text.split())
    return found


@cache
def schema_of(kind: type) -> type:
    """Return the twin of a dataclass that OmegaConf understands."""
    hints = option_hints(kind)
    members = [
        (each.name, _plain_type(hints[each.name]), _plain_field(each, hints[each.name]))
        for each in fields(kind)
        if each.init
    ]
    return make_dataclass(kind.__name__, members)


def _plain_type(hint: Any) -> Any:
    parts = [part for part in alternatives_of(hint) if part is not type(None)]
    if len(parts) < len(alternatives_of(hint)) or parts[0] is str:
        # A name may refer to an option that is null; our own check names that one first.
        return Optional[_plain_union(parts)]  # noqa: UP007, UP045
    return _plain_union(parts)


def _plain_union(parts: list[Any]) -> Any:
    """Return one type for a union; OmegaConf supports only unions of simple types."""
    kinds = dict.fromkeys(_plain_base(base_of(part)) for part in parts)
    if len(kinds) > 1 and not all(kind in (bool, int, float, str) for kind in kinds):
        return Any
    return Union[tuple(kinds)]  # noqa: UP007


def _plain_base(base: Any) -> Any:
    origin = get_origin(base) or base
    if origin is Literal:
        return type(get_args(base)[0])
    if origin is tuple:
        kinds = {_plain_type(item) for item in get_args(base) if item is not Ellipsis}
        # OmegaConf accepts integers as floats in lists, but not in lists of lists.
        is_nested = any(get_origin(kind) is list for kind in kinds)
        return list[kinds.pop() if len(kinds) == 1 and not is_nested else Any]
    return schema_of(origin) if is_dataclass(origin) else base


def _plain_field(each: Field, hint: Any) -> Any:
    if each.default is MISSING and each.default_factory is MISSING:
        # YAML files may set only some options of a group.
        return field(default_factory=schema_of(hint) if is_dataclass(hint) else lambda: "???")
    value = each.default if each.default_factory is MISSING else each.default_factory()
    return field(default_factory=lambda: _plain_value(value))


def _plain_value(value: Any) -> Any:
    if is_dataclass(value):
        kind = schema_of(type(value))
        return kind(**{each.name: _plain_value(getattr(value, each.name)) for each in fields(kind)})
    return list(map(_plain_value, value)) if isinstance(value, tuple) else value
