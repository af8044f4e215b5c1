"""The `--help` text of a script: every option, its value, and the comment of its YAML file."""

import re
import textwrap
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from scripts._old_compose import CONFIG_FOLDER, chosen_files, compose_config, flatten, group_choices

_COLUMN = 34
_WIDTH = 100


def help_text(config_name: str, words: Sequence[str] = ()) -> str:
    """Describe a script's options as they stand after the user's words."""
    primary = CONFIG_FOLDER / f"{config_name}.yaml"
    text = primary.read_text(encoding="utf-8")
    choices = chosen_files(config_name, words)
    comments = {}
    for group, choice in choices.items():
        if choice is not None:
            comments |= _comments(CONFIG_FOLDER / group / f"{choice}.yaml", group)
    comments |= _comments(primary)
    header = takewhile(lambda line: line.startswith("#"), text.splitlines())
    lines = [line.removeprefix("#").removeprefix(" ") for line in header]
    lines += [
        *("", f"Usage: python -m scripts.{config_name} [option=value ...]", ""),
        *_entry("--help", "print this text and stop"),
        *_entry("--cfg", "print the composed configuration and stop"),
        *_entry("--multirun", "one job for each of seed=0,1 and the like; see docs/scaling.md"),
        *("", "Groups of options:"),
    ]
    for group, choice in choices.items():
        allowed = ", ".join(group_choices(config_name, group)) or "none yet"
        lines += _entry(f"{group}={_show(choice)}", f"choices: {allowed}")
    lines += ["", "Options and their values (??? must be given):"]
    options = list(flatten(compose_config(config_name, words)))
    # The script's own options come before those of the shared groups.
    for key, value in sorted(options, key=lambda option: option[0].split(".")[0] in choices):
        lines += _entry(f"{key}={_show(value)}", comments.get(key, ""))
    return "\n".join(lines)


def _show(value: object) -> str:
    """Write a value as YAML does."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _entry(left: str, comment: str) -> list[str]:
    """Lay an option out in two columns; a long left side gets its own line."""
    right = textwrap.wrap(comment, _WIDTH - _COLUMN - 2)
    if len(left) + 2 > _COLUMN or not right:
        right.insert(0, "")
    rest = [f"  {'':{_COLUMN}}{line}" for line in right[1:]]
    return [f"  {left:{_COLUMN}}{right[0]}".rstrip(), *rest]


def _comments(path: Path, group: str = "") -> dict[str, str]:
    """Map dotted keys of a YAML file to the comments above and behind each."""
    text = path.read_text(encoding="utf-8")
    prefix = [group] if group and "@package _global_" not in text else []
    keys: list[str] = []
    above: list[str] = []
    comments = {}
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.strip(" #"))
            continue
        if match := re.match(r"( *)(\w+):(?:.* # (.*))?", line):
            keys[len(match[1]) // 2 :] = [match[2]]
            words = [*above, match[3] or ""]
            comments[".".join(prefix + keys)] = " ".join(filter(None, words))
        above = []
    return comments
