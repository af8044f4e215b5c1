"""Compose a script's configuration from `configs/` and `option=value` words, with clear errors."""

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

import configs
from mate3d.errors import UserError

CONFIG_FOLDER = Path(configs.__file__).resolve().parent

# Groups whose choices belong to one script: `debug=tiny` of script `train` means
# configs/debug/train/tiny.yaml.
_GROUPS_BY_SCRIPT = ("experiment", "debug")

# What may replace a default of a type, and how to say it.
_REPLACEMENTS = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    ListConfig: ((ListConfig,), "a list such as [1,2]"),
    DictConfig: ((DictConfig,), "a group of options such as {a:1}"),
}


def compose_config(config_name: str, words: Sequence[str] = ()) -> DictConfig:
    """Compose `configs/<config_name>.yaml` with the user's `option=value` words.

    Args:
        config_name: Name of the primary file, which is the script's name.
        words: Overrides of values (`num_images=20`, `dataset.name=x`) and group choices
            (`experiment=demo_cat`). Text need not be quoted for Hydra's grammar.

    Raises:
        UserError: If an option or a choice is unknown, or a value has the wrong type.
    """
    config = _compose_groups(config_name, words)
    for word in words:
        key, _, text = word.partition("=")
        if not _is_group(key):
            _set_option(config, key, text)
    return config


def resolve_config(config: DictConfig) -> DictConfig:
    """Return a copy with all interpolations replaced by their values.

    Raises:
        UserError: If a value that the user must give is missing, or refers to nothing.
    """
    if missing := missing_options(config):
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
    folder = CONFIG_FOLDER / group / (config_name if group in _GROUPS_BY_SCRIPT else "")
    return sorted(path.stem for path in folder.glob("*.yaml"))


def chosen_files(config_name: str, words: Sequence[str] = ()) -> dict[str, str | None]:
    """Return the choice of each group (None for an empty one) after the user's words."""
    config = _compose_groups(config_name, words, return_hydra_config=True)
    choices = config.hydra.runtime.choices
    return {group: choices[group] for group in choices if not group.startswith("hydra/")}


def flatten(config: DictConfig) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, raw value) of every leaf; interpolations and `???` stay as written."""

    def walk(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, dict) and value:
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    yield from walk(OmegaConf.to_container(config, resolve=False), "")


def hydra_word(config_name: str, word: str) -> str:
    """Return a word as Hydra itself reads it, which takes commas for several values."""
    key, _, text = word.partition("=")
    if key in _GROUPS_BY_SCRIPT:
        choices = text.split(",")
        return f"{key}={','.join(f'{config_name}/{Path(choice).name}' for choice in choices)}"
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        # Hydra reads backslashes literally except before a quote and at the end.
        text = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + ("\\'" if end[2] else ""), text)
        return f"{key}='{text}'"
    return word


def _is_group(key: str) -> bool:
    return (CONFIG_FOLDER / key).is_dir()


def _compose_groups(config_name: str, words: Sequence[str], **options: bool) -> DictConfig:
    pairs = [hydra_word(config_name, word).split("=", 1) for word in words]
    choices = [f"{key}='{text}'" for key, text in pairs if _is_group(key)]
    with composing(config_name):
        return compose(config_name, choices, **options)


@contextmanager
def composing(config_name: str) -> Iterator[None]:
    """Let Hydra compose from `configs/`; its errors become those of the user, of one line.

    Raises:
        UserError: In place of errors of Hydra and OmegaConf.
    """
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), config_name, version_base=None):
            yield
    except MissingConfigException as error:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        group = group.removesuffix(f"/{config_name}")
        allowed = ", ".join(error.options or group_choices(config_name, group))
        raise UserError(f"unknown choice {group}={choice}; use one of: {allowed}") from error
    except (HydraException, OmegaConfBaseException) as error:
        reasons = filter(None, (error, error.__cause__))
        raise UserError(": ".join(str(each).splitlines()[0] for each in reasons)) from error


def _set_option(config: DictConfig, key: str, text: str) -> None:
    """Replace a value by another one of its type; null is always allowed."""
    # An option that must be given (`???`) takes text.
    default = OmegaConf.select(config, key, default="", throw_on_resolution_failure=False)
    try:
        OmegaConf.update(config, key, _read_value(text, is_text=isinstance(default, str)))
        value = OmegaConf.select(config, key)
    except (ConfigAttributeError, ConfigKeyError) as error:
        known = [name for name, _ in flatten(config)]
        close = difflib.get_close_matches(key, known, n=3)
        close += [name for name in known if name.endswith(f".{key}") and name not in close]
        hint = f"did you mean {' or '.join(close)}?" if close else "see --help for all options"
        raise UserError(f"unknown option '{key}'; {hint}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"option {key}: {str(error).splitlines()[0]}") from error
    allowed, description = _REPLACEMENTS.get(type(default), ((type(value),), ""))
    if value is not None and type(value) not in allowed:
        raise UserError(f"option {key}={value} must be {description} (default {default})")


def _read_value(text: str, *, is_text: bool) -> Any:
    """Read a value as Hydra does, or take it as text.

    Text is what Hydra's grammar refuses or takes for a sweep (a prompt's commas), and a number or
    truth value where text belongs (`output=2026`).
    """
    try:
        override = OverridesParser.create().parse_override(f"value={text}")
    except HydraException:
        return text
    if override.is_sweep_override() or (is_text and isinstance(override.value(), int | float)):
        return text
    return override.value()
