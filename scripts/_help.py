"""The `--help` text of a script: summary, groups, and every option with its value."""

import textwrap
from collections.abc import Mapping, Sequence

from mate3d.options import as_text, group_type, limits
from scripts._compose import chosen_files, compose_config, flatten
from scripts._schema import Option, find_options, options_type, read_summary
from scripts._words import script_groups

_COLUMN = 34
_WIDTH = 100


def help_text(script: str, words: Sequence[str] = ()) -> str:
    """Describe a script's options, with their values after the user's overrides."""
    kind = options_type(script)
    lines = [
        *(read_summary(kind), ""),
        *(f"Usage: python -m scripts.{script} [option=value ...]", ""),
        *_entry("--help", "print this text and exit"),
        *_entry("--cfg", "print the composed options as YAML and exit"),
        *_entry("--multirun", "run one job per value in seed=0,1; see docs/scaling.md"),
        *("", "Option groups:"),
    ]
    chosen = chosen_files(script, words)
    for group, choices in script_groups(script).items():
        allowed = ", ".join(choices) or "none yet"
        lines += _entry(f"{group}={as_text(chosen.get(group))}", f"choices: {allowed}")
    lines += ["", "Options and their values (??? means required):"]
    sections: dict[str, list[str]] = {"": []}
    options = find_options(kind)
    for path, value in flatten(compose_config(script, words)):
        option = _option_of(options, path)
        section = path if group_type(option.hint) else option.path.rpartition(".")[0]
        allowed = limits(option.hint)
        text = f"{option.description} [{allowed}]" if allowed else option.description
        sections.setdefault(section, []).extend(_entry(f"{path}={as_text(value)}", text))
    for section, entries in sections.items():
        if section:
            title = f"{section}: {options[section].description}"
            lines += ["", *textwrap.wrap(title, _WIDTH, break_on_hyphens=False)]
        lines += entries
    return "\n".join(lines)


def _option_of(options: Mapping[str, Option], path: str) -> Option:
    """Return the option that a value belongs to; a dictionary has several values."""
    while path not in options:
        path = path.rpartition(".")[0]
    return options[path]


def _entry(left: str, text: str) -> list[str]:
    """Lay an option out in two columns; a long left side gets its own line."""
    right = textwrap.wrap(text, _WIDTH - _COLUMN - 2, break_on_hyphens=False)
    if len(left) + 2 > _COLUMN or not right:
        right.insert(0, "")
    rest = [f"  {'':{_COLUMN}}{line}" for line in right[1:]]
    return [f"  {left:{_COLUMN}}{right[0]}".rstrip(), *rest]
