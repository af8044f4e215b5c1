"""The `--help` text of a script: every option, its value, and the comment of its YAML file."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from scripts._compose import CONFIG_FOLDER, chosen_files, compose_config, flatten, group_choices

_COLUMN = 34
_WIDTH = 100


def help_text(config_name: str, words: Sequence[str] = ()) -> str:
    """Describe a script's options as they stand after the user's words."""
    primary = CONFIG_FOLDER / f"{config_name}.yaml"
    choices = chosen_files(config_name, words)
    comments = _file_comments(primary)
    for group, choice in choices.items():
        if choice is not None:
            comments = _file_comments(CONFIG_FOLDER / group / f"{choice}.yaml", group) | comments
    lines = [*_header(primary), "", f"Usage: python -m scripts.{config_name} [option=value ...]"]
    lines += [
        "",
        *_entry("--help", "print this text and stop"),
        *_entry("--cfg", "print the composed configuration and stop"),
        *_entry("--multirun", "one job for each of seed=0,1 and the like; see docs/scaling.md"),
    ]
    if choices:
        lines += ["", "Groups of options:"]
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
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _entry(left: str, comment: str) -> list[str]:
    """Lay an option out in two columns; a long left side gets its own line."""
    paragraph = textwrap.wrap(comment, _WIDTH - _COLUMN - 2) or [""]
    if len(left) + 2 > _COLUMN:
        return [f"  {left}", *(f"  {'':{_COLUMN}}{line}" for line in paragraph if line)]
    first = f"  {left:{_COLUMN}}{paragraph[0]}".rstrip()
    return [first, *(f"  {'':{_COLUMN}}{line}" for line in paragraph[1:])]


def _header(path: Path) -> list[str]:
    """Return the comment block at the top of a file."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return lines


def _file_comments(path: Path, group: str = "") -> dict[str, str]:
    """Map dotted keys of a YAML file to the comment above or behind each."""
    text = path.read_text(encoding="utf-8")
    prefix = "" if "@package _global_" in text.split("\n", 1)[0] or not group else f"{group}."
    root = yaml.compose(text)
    if not isinstance(root, yaml.MappingNode):
        return {}
    lines = text.splitlines()
    comments = {f"{prefix}{key}": _comment_at(lines, line) for key, line in _key_lines(root)}
    return {key: comment for key, comment in comments.items() if comment}


def _key_lines(node: yaml.MappingNode, prefix: str = "") -> Iterator[tuple[str, int]]:
    for key, value in node.value:
        yield f"{prefix}{key.value}", key.start_mark.line
        if isinstance(value, yaml.MappingNode):
            yield from _key_lines(value, f"{prefix}{key.value}.")


def _comment_at(lines: list[str], line: int) -> str:
    above = []
    for text in reversed(lines[:line]):
        if not text.lstrip().startswith("#"):
            break
        above.insert(0, text.strip().lstrip("#").strip())
    _, separator, behind = lines[line].partition(" # ")
    return " ".join(above + [behind.strip()] if separator else above)
