"""Options of all scripts: described, declared once, checked, and composed from every choice."""

import math
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin

import pytest
import yaml

from mate3d.errors import UserError
from mate3d.options import (
    Range,
    alternatives_of,
    base_of,
    bounds_of,
    config_from_dict,
    config_to_dict,
    group_type,
    option_hints,
)
from scripts._compose import compose_config, flatten, read_options
from scripts._schema import find_options, options_type
from scripts._words import CONFIG_FOLDER, script_groups

SCRIPTS = sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))
CHOICES = [
    (script, group, choice)
    for script in SCRIPTS
    for group, choices in script_groups(script).items()
    for choice in choices
]
# What a user must give with a choice.
NEEDED = {
    "dataset=folder": ["dataset.label_set=catmask_hq"],
    "dataset=packed": ["dataset.label_set=catmask_hq"],
    "prior=controlnet": ["prior.base=given"],
    "guidance=stable_diffusion_1_5": ["guidance.controlnet=given"],
}
# These say what they do, whatever the defaults are.
BY_PURPOSE = ("experiment", "debug", "ablation")


@cache
def missing_words(script: str) -> list[str]:
    """Return a word for each option that has no value."""
    values = flatten(compose_config(script))
    return [f"{path}=given" for path, value in values if value == "???"]


@pytest.mark.parametrize(("script", "group", "choice"), CHOICES)
def test_every_choice_composes_and_is_valid(script, group, choice):
    word = f"{group}={choice}"
    options = read_options(script, [word, *missing_words(script), *NEEDED.get(word, [])])
    assert isinstance(options, options_type(script))


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_is_described_and_every_group_of_options_too(script):
    known = find_options(options_type(script))
    assert [path for path, option in known.items() if not option.description] == []
    assert {path for path, _ in flatten(compose_config(script))} <= set(known)


def find_defaults(kind: type, prefix: str = "", instance: Any = None) -> Iterator[tuple[str, Any]]:
    """Yield the path and the default of all options; MISSING where there is none."""
    for field in fields(kind):
        default = field.default
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        value = default if instance is None else getattr(instance, field.name)
        group = group_type(option_hints(kind)[field.name])
        if group:
            inner = value if is_dataclass(value) else None
            yield from find_defaults(group, f"{prefix}{field.name}.", inner)
        yield f"{prefix}{field.name}", list(value) if isinstance(value, tuple) else value


def read_values(group: str, choice: str) -> dict[str, Any]:
    """Return what a YAML file itself sets, by path, and under "defaults" the files below it."""
    text = (CONFIG_FOLDER / group / f"{choice}.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text) or {}
    below = values.pop("defaults", [])
    is_global = not group or text.startswith("# @package _global_")
    prefix = "" if is_global else f"{group}."
    return {"defaults": below} | {f"{prefix}{path}": each for path, each in flatten(values)}


@pytest.mark.parametrize("script", SCRIPTS)
def test_files_say_only_what_differs_from_the_defaults(script):
    defaults = dict(find_defaults(options_type(script)))
    groups = {group: own for group, own in script_groups(script).items() if group not in BY_PURPOSE}
    for group, choices in {"": [script], **groups}.items():
        for choice in choices:
            values = read_values(group, choice)
            below = [each for each in values.pop("defaults") if group and isinstance(each, str)]
            changed = {
                path for each in below if each != "_self_" for path in read_values(group, each)
            }
            repeated = {path for path in values if values[path] == defaults[path]} - changed
            assert not repeated, f"{group}={choice} of {script} repeats {sorted(repeated)}"


@cache
def valid_values(script: str) -> dict[str, Any]:
    return config_to_dict(read_options(script, missing_words(script)))


def replace_value(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    name, _, rest = path.partition(".")
    inner = replace_value(values[name] or {}, rest, value) if rest else value
    return values | {name: inner}


def find_wrong_values(hint: Any, current: Any) -> Iterator[Any]:
    """Yield values just beyond the bounds of a numeric annotation, and NaN."""
    for part in alternatives_of(hint):
        if get_origin(base_of(part)) is tuple:
            length = len(current or [1])
            for wrong in find_wrong_values(get_args(base_of(part))[0], None):
                yield [wrong] * length
        elif base_of(part) in (int, float):
            yield math.nan
            for bound in filter(lambda each: isinstance(each, Range), bounds_of(part)):
                yield bound.low - 1 if bound.with_low else bound.low
                yield bound.high + 1 if bound.with_high else bound.high


@pytest.mark.parametrize("script", SCRIPTS)
def test_numbers_out_of_bounds_are_refused_by_name(script):
    values, num_refused = valid_values(script), 0
    for path, option in find_options(options_type(script)).items():
        for wrong in find_wrong_values(option.hint, dict(flatten(values)).get(path)):
            with pytest.raises(UserError) as info:
                config_from_dict(options_type(script), replace_value(values, path, wrong))
            assert str(info.value).startswith(f"{path}="), f"{path}={wrong}: {info.value}"
            num_refused += 1
    assert num_refused > 0 or script in ("convert_checkpoint", "download_weights")
