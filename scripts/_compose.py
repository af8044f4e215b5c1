"""Compose a script's configuration from `configs/` and `option=value` words, with clear errors."""

import difflib
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import configs
from mate3d.errors import UserError

CONFIG_FOLDER = Path(configs.__file__).resolve().parent

# Groups whose choices may belong to one script: `debug=tiny` of script `train` means
# configs/debug/train/tiny.yaml where that file exists, else configs/debug/tiny.yaml.
_GROUPS_BY_SCRIPT = ("experiment", "debug")

OmegaConf.register_new_resolver(
    "project_folder", lambda: str(CONFIG_FOLDER.parent), use_cache=True, replace=True
)


def compose_config(config_name: str, words: Sequence[str] = ()) -> DictConfig:
    """Compose `configs/<config_name>.yaml` with the user's `option=value` words.

    Args:
        config_name: Name of the primary file, which is the script's name.
        words: Overrides of values (`num_images=20`, `dataset.name=x`) and group choices
            (`experiment=demo_cat`). Text need not be quoted for Hydra's grammar.

    Raises:
        UserError: If an option or a choice is unknown, or a value has the wrong type.
    """
    with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
        groups = _group_names(config_name)
        choices, values = [], []
        for word in words:
            key, value = split_word(word)
            if key in groups:
                choices.append(f"{key}={_find_choice(config_name, key, value)}")
            else:
                values.append((key, word))
        base = compose(config_name, choices)
        for key, _ in values:
            _check_key(key, base, groups)
        overrides = [_quote_free_text(word, is_text=_is_text(base, key)) for key, word in values]
        try:
            config = compose(config_name, choices + overrides) if overrides else base
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(str(error).splitlines()[0]) from error
    for key, _ in values:
        _check_type(key, base, config)
    return config


def resolve_config(config: DictConfig) -> DictConfig:
    """Return a copy with all interpolations replaced by their values.

    Raises:
        UserError: If a value that the user must give is missing.
    """
    missing = missing_options(config)
    if missing:
        wanted = ", ".join(f"{key}=..." for key in missing)
        raise UserError(f"missing value, please give: {wanted} (see --help)")
    resolved = config.copy()
    OmegaConf.resolve(resolved)
    return resolved


def missing_options(config: DictConfig) -> list[str]:
    """List the options that the user must still give (`???`)."""
    return [key for key, value in flatten(config) if value == "???"]


def group_choices(config_name: str, group: str) -> list[str]:
    """List what may stand after `<group>=` for a script."""
    folders = [CONFIG_FOLDER / group]
    if group in _GROUPS_BY_SCRIPT:
        folders.append(CONFIG_FOLDER / group / config_name)
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def chosen_files(config_name: str, words: Sequence[str] = ()) -> dict[str, str | None]:
    """Return the choice of each group (None for an empty one) after the user's words."""
    with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
        groups = _group_names(config_name)
        pairs = [split_word(word) for word in words]
        choices = [f"{k}={_find_choice(config_name, k, v)}" for k, v in pairs if k in groups]
        return _runtime_choices(config_name, choices)


def flatten(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, raw value) of every leaf; interpolations and `???` stay as written."""
    for key, value in OmegaConf.to_container(config, resolve=False).items():
        if isinstance(value, dict) and value:
            yield from flatten(OmegaConf.create(value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _runtime_choices(config_name: str, choices: Sequence[str]) -> dict[str, str | None]:
    config = compose(config_name, list(choices), return_hydra_config=True)
    found = config.hydra.runtime.choices
    return {group: found[group] for group in found if not group.startswith("hydra/")}


@cache
def _group_names(config_name: str) -> frozenset[str]:
    return frozenset(_runtime_choices(config_name, ()))


def normalize_words(config_name: str, words: Sequence[str]) -> list[str]:
    """Return the words as Hydra's own sweeper reads them; commas separate values.

    Raises:
        UserError: If a word or a choice of a group is unknown.
    """
    with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
        groups = _group_names(config_name)
    normal = []
    for word in words:
        key, value = split_word(word)
        if key in groups:
            choices = [_find_choice(config_name, key, choice) for choice in value.split(",")]
            normal.append(f"{key}={','.join(choices)}")
        else:
            normal.append(_quote_unreadable(word))
    return normal


def split_word(word: str) -> tuple[str, str]:
    """Split `name=value`.

    Raises:
        UserError: If the word has another form.
    """
    key, equal, value = word.partition("=")
    if not equal or not re.fullmatch(r"[A-Za-z_][\w.@/]*", key):
        raise UserError(f"cannot read '{word}'; options are written as name=value (see --help)")
    return key, value


def _find_choice(config_name: str, group: str, choice: str) -> str:
    if choice == "null":
        return choice
    own_choice = f"{config_name}/{choice}"
    if group in _GROUPS_BY_SCRIPT and (CONFIG_FOLDER / group / f"{own_choice}.yaml").is_file():
        return own_choice
    if not choice or not (CONFIG_FOLDER / group / f"{choice}.yaml").is_file():
        allowed = ", ".join(group_choices(config_name, group)) or "null"
        raise UserError(f"unknown choice {group}={choice}; use one of: {allowed}")
    return choice


def _is_text(base: DictConfig, key: str) -> bool:
    """Tell whether an option takes text: its default is text, or must be given (`???`)."""
    try:
        default = OmegaConf.select(base, key, throw_on_missing=True)
    except OmegaConfBaseException:
        return True
    return isinstance(default, str)


def _quote_free_text(word: str, *, is_text: bool) -> str:
    """Quote a value that is not meant as Hydra would read it.

    That is what its grammar refuses or takes for a sweep (a prompt's commas), and a number or
    truth value where text belongs (`output=2026`).
    """
    try:
        override = OverridesParser.create().parse_override(word)
        is_number = not override.is_sweep_override() and isinstance(override.value(), int | float)
        if not override.is_sweep_override() and not (is_text and is_number):
            return word
    except HydraException:
        pass
    return _quote(word)


def _quote_unreadable(word: str) -> str:
    """Quote a value that Hydra's grammar refuses; commas still separate values."""
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return _quote(word)
    return word


def _quote(word: str) -> str:
    key, _, value = word.partition("=")
    # Hydra reads backslashes literally except before a quote and at the end.
    value = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
    return f"{key}='{value}'"


def _check_key(key: str, base: DictConfig, groups: frozenset[str]) -> None:
    node: Any = base
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in OmegaConf.to_container(node):
            break
        node = None if OmegaConf.is_missing(node, part) else node[part]
    else:
        return
    known = [name for name, _ in flatten(base)] + sorted(groups)
    close = difflib.get_close_matches(key, known, n=3)
    close += [name for name in known if name.endswith(f".{key}") and name not in close]
    hint = f"did you mean {' or '.join(close)}?" if close else "see --help for all options"
    raise UserError(f"unknown option '{key}'; {hint}")


def _check_type(key: str, base: DictConfig, config: DictConfig) -> None:
    """Compare an overridden value's type with the default's; null is always allowed."""
    try:
        default = OmegaConf.select(base, key)
        value = OmegaConf.select(config, key)
    except OmegaConfBaseException as error:
        raise UserError(f"option {key}: {str(error).splitlines()[0]}") from error
    kinds = {
        bool: ((bool,), "true or false"),
        int: ((int,), "a whole number"),
        float: ((int, float), "a number"),
        ListConfig: ((ListConfig,), "a list such as [1,2]"),
        DictConfig: ((DictConfig,), "a group of options such as {a:1}"),
    }
    if value is None or type(default) not in kinds:
        return
    allowed, description = kinds[type(default)]
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise UserError(f"option {key}={value} must be {description} (default {default})")
