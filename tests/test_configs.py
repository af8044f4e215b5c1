"""Every primary configuration composes with every experiment, debug and group choice it offers."""

import pytest
from omegaconf import DictConfig, OmegaConf

from scripts._compose import (
    CONFIG_FOLDER,
    chosen_files,
    compose_config,
    flatten,
    group_choices,
    missing_options,
    resolve_config,
)

SCRIPTS = sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))


def _choices(*, of_values: bool) -> list[tuple[str, str]]:
    """List (script, `group=choice`) for the groups that only set values, or for the others."""
    return [
        (script, f"{group}={choice}")
        for script in SCRIPTS
        for group in chosen_files(script)
        for choice in group_choices(script, group)
        if (group in ("experiment", "debug")) == of_values
    ]


def _resolves(script: str, word: str) -> DictConfig:
    config = compose_config(script, [word])
    for key in missing_options(config):
        OmegaConf.update(config, key, "given")
    return resolve_config(config)


@pytest.mark.parametrize(("script", "word"), _choices(of_values=False))
def test_choice_of_a_group_composes(script, word):
    _resolves(script, word)


@pytest.mark.parametrize(("script", "word"), _choices(of_values=True))
def test_experiment_and_debug_files_set_only_options_that_exist(script, word):
    groups = chosen_files(script)
    known = {key for key, _ in flatten(compose_config(script))}
    given = {key for key, _ in flatten(_resolves(script, word))}
    unknown = {key for key in given - known if key.split(".")[0] not in groups}
    assert not unknown, f"{word} of {script} sets {sorted(unknown)}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_has_a_tiny_debug_configuration(script):
    assert "tiny" in group_choices(script, "debug")
