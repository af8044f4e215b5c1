"""Compose a script's options from its dataclass, `configs/` and the words of a command line."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from mate3d.errors import UserError
from mate3d.options import Options, as_text, config_from_dict, describe
from scripts._schema import find_options, options_type, schema_of
from scripts._words import CONFIG_FOLDER, hydra_words


def read_options(script: str, words: Sequence[str] = ()) -> Options:
    """Return the options of a script with the user's `option=value` words, checked.

    Raises:
        UserError: If a word cannot be read, or a value is missing, not allowed, or refers to
            nothing.
    """
    return build_options(script, compose_config(script, words))


def compose_config(script: str, words: Sequence[str] = ()) -> DictConfig:
    """Compose the defaults of a script, `configs/<script>.yaml` and the user's words.

    Args:
        words: Overrides of values (`num_images=20`, `dataset.name=x`) and group choices
            (`experiment=demo_cat`).

    Raises:
        UserError: If an option or a choice is unknown, or a value has the wrong type.
    """
    overrides = hydra_words(script, words)
    with composing(script, words):
        return compose(script, overrides)


def build_options(script: str, config: DictConfig) -> Options:
    """Return composed options as an instance of the script's dataclass.

    Raises:
        UserError: If a value is missing, not allowed, or refers to nothing.
    """
    if missing := [key for key, value in flatten(config) if value == "???"]:
        wanted = ", ".join(f"{key}=..." for key in missing)
        raise UserError(f"missing required option: {wanted} (see --help)")
    with composing(script):
        values = OmegaConf.to_container(config, resolve=True)
    return config_from_dict(options_type(script), values)


def chosen_files(script: str, words: Sequence[str] = ()) -> dict[str, str | None]:
    """Return the choice of each group (None for an empty one) after the user's words."""
    overrides = hydra_words(script, words)
    with composing(script, words):
        config = compose(script, overrides, return_hydra_config=True)
    choices = config.hydra.runtime.choices
    return {group: choices[group] for group in choices if not group.startswith("hydra/")}


def flatten(config: DictConfig | Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, raw value) of every leaf; interpolations and `???` are unresolved."""
    values = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def changed_values(
    before: DictConfig | Mapping[str, Any], now: DictConfig | Mapping[str, Any]
) -> dict[str, tuple[str, str]]:
    """Return old and new value of each option that changed, as texts, or "not set", by name."""
    old, new = dict(flatten(before)), dict(flatten(now))
    pairs = {
        name: tuple(as_text(one[name]) if name in one else "not set" for one in (old, new))
        for name in {**old, **new}
    }
    return {name: (was, value) for name, (was, value) in pairs.items() if was != value}


@contextmanager
def composing(script: str, words: Sequence[str] = (), *, with_types: bool = True) -> Iterator[None]:
    """Run Hydra's composition; its errors become one-line user errors.

    Args:
        words: The user's overrides, for messages.
        with_types: Let Hydra check types. Launchers that pickle Hydra's state cannot pickle them.

    Raises:
        UserError: In place of errors of Hydra and OmegaConf.
    """
    schema = OmegaConf.structured(schema_of(options_type(script)))
    node = schema if with_types else OmegaConf.to_container(schema)
    ConfigStore.instance().store(f"{script}_options", node)
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), script, version_base=None):
            yield
    except MissingConfigException as error:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        allowed = ", ".join(error.options or ())
        raise UserError(f"unknown choice {group}={choice}; use one of: {allowed}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(script, words, error)) from error


def _explain(script: str, words: Sequence[str], error: Exception) -> str:
    """Return a one-line message: the option, its value, and the allowed values."""
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    key = re.sub(r"\[\d+\]$", "", getattr(cause, "full_key", None) or "")
    option = find_options(options_type(script)).get(key)
    if option is not None and isinstance(cause, ValidationError):
        given = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)
        return f"{key}={given.get(key, as_text(cause.value))}; use {describe(option.hint)}"
    reasons = [str(each).splitlines()[0] for each in (error, error.__cause__) if each]
    return ": ".join([key, *reasons] if option is not None else reasons)
