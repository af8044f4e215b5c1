"""Read the words of a command line as Hydra's overrides; text is taken literally."""

import difflib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

import configs
from mate3d.errors import UserError
from mate3d.options import alternatives_of, base_of, describe, group_type
from scripts._schema import Option, find_options, options_type

CONFIG_FOLDER = Path(configs.__file__).resolve().parent

# Groups whose choices belong to one script: `debug=tiny` of script `train` means
# configs/debug/train/tiny.yaml.
_GROUPS_BY_SCRIPT = ("experiment", "debug")

# An item of a list: quoted, in brackets, or everything up to the next comma.
_ITEM = re.compile(
    r"""\s*("(?:\\.|[^"\\])*"(?=\s*(?:,|$))|'(?:\\.|[^'\\])*'(?=\s*(?:,|$))"""
    r"""|\[[^\]]*\](?=\s*(?:,|$))|[^,]*)\s*(?:,|$)"""
)


@cache
def script_groups(script: str) -> dict[str, list[str]]:
    """Return the groups of YAML files that a script composes, and the choices of each."""
    text = (CONFIG_FOLDER / f"{script}.yaml").read_text(encoding="utf-8")
    groups = [each for each in yaml.safe_load(text)["defaults"] if isinstance(each, dict)]
    found = {}
    for name in (name for group in groups for name in group):
        folder = CONFIG_FOLDER / name / (script if name in _GROUPS_BY_SCRIPT else "")
        found[name] = sorted(path.stem for path in folder.glob("*.yaml"))
    return found


def hydra_words(script: str, words: Sequence[str], *, with_sweeps: bool = False) -> list[str]:
    """Return the words as Hydra reads them.

    Args:
        words: `option=value` and `group=choice`. Text needs no quotes; one pair around it is
            removed. `+option=value` and `++option=value` mean the same, `~group` is `group=null`.
        with_sweeps: Values separated by commas are one for each job, as in `seed=0,1`.

    Raises:
        UserError: If an option or a choice is unknown, or a value cannot be read.
    """
    return [_hydra_word(script, word, with_sweeps) for word in words]


def _hydra_word(script: str, word: str, with_sweeps: bool) -> str:
    if word.startswith("~"):
        word = _read_removal(script, word)
    key, _, text = word.lstrip("+").partition("=")
    if key in script_groups(script):
        if text == "null":
            return f"~{key}"
        return f"{key}={','.join(_read_choice(script, key, each) for each in _split(text))}"
    if key.startswith(("hydra.", "hydra/")):
        raise UserError(f"cannot read '{word}'; options of Hydra have no effect without --multirun")
    option = find_option(script, key)
    if with_sweeps and (override := _parse(f"{key}={text}")) and override.is_sweep_override():
        # A function, such as range(1,4), expands to its values.
        is_function = re.fullmatch(r"\w+\(.*\)", text)
        items = [text] if is_function else [_read_value(option, each) for each in _split(text)]
    else:
        items = [_read_value(option, text)]
    # Dictionaries accept new keys, which Hydra's grammar marks as added.
    is_dict = get_origin(base_of(option.hint)) is dict
    is_new = is_dict or key not in find_options(options_type(script))
    return f"{'++' if is_new else ''}{key}={','.join(items)}"


def find_option(script: str, key: str) -> Option:
    """Return the option with a name.

    Raises:
        UserError: If there is none; the message suggests similar ones.
    """
    options = find_options(options_type(script))
    if key in options:
        return options[key]
    parent = options.get(key.rpartition(".")[0])
    if parent and get_origin(base_of(parent.hint)) is dict:
        return Option(key, Any, "")
    names = [name for name, option in options.items() if not group_type(option.hint)]
    close = difflib.get_close_matches(key, names, n=3)
    alike = [name for name in names if name.endswith(f".{key}") or name.startswith(f"{key}_")]
    close = dict.fromkeys([*alike, *close])
    hint = f"did you mean {' or '.join(close)}?" if close else "see --help for all options"
    raise UserError(f"unknown option '{key}'; {hint}")


def _read_removal(script: str, word: str) -> str:
    key = word[1:].partition("=")[0]
    if key in script_groups(script):
        return f"{key}=null"
    find_option(script, key)
    raise UserError(f"cannot read '{word}'; options cannot be removed, set a value: {key}=...")


def _read_choice(script: str, group: str, text: str) -> str:
    text = Path(text).name if group in _GROUPS_BY_SCRIPT else text
    if text not in (choices := script_groups(script)[group]):
        raise UserError(f"unknown choice {group}={text}; use one of: {', '.join(choices)}")
    return f"{script}/{text}" if group in _GROUPS_BY_SCRIPT else text


def _read_value(option: Option, text: str) -> str:
    """Write a value in Hydra's grammar, by the option's type."""
    kinds = [base_of(part) for part in alternatives_of(option.hint) if part is not type(None)]
    is_bracketed = text.startswith("[") and text.endswith("]")
    if text == "null":
        return text
    if any(map(_is_list_of_text, kinds)) and (is_bracketed or len(kinds) == 1):
        items = _split(text[1:-1] if is_bracketed else text)
        return f"[{','.join(map(_quote, items))}]"
    if str in kinds or all(map(_is_text, kinds)):
        return _quote(text)
    if _parse(f"{option.path}={text}") is None:
        raise UserError(f"{option.path}={text}; use {describe(option.hint)}")
    return text


def _is_text(kind: Any) -> bool:
    return kind is str or (get_origin(kind) is Literal and isinstance(get_args(kind)[0], str))


def _is_list_of_text(kind: Any) -> bool:
    return get_origin(kind) is tuple and _is_text(base_of(get_args(kind)[0]))


def _split(text: str) -> list[str]:
    """Split at commas, except in quotes and brackets; empty text has no items."""
    return [item.strip() for item in _ITEM.findall(text)][:-1]


def _quote(text: str) -> str:
    """Quote text for Hydra's grammar, unless it is quoted already."""
    if re.fullmatch(r"(['\"]).*\1", text, re.S):
        if (override := _parse(f"text={text}")) and not override.is_sweep_override():
            return text
    # Hydra reads backslashes literally except before a quote and at the end.
    text = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + ("\\'" if end[2] else ""), text)
    return f"'{text}'"


def _parse(word: str) -> Override | None:
    """Parse a word with Hydra's grammar; None if it does not match."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None
