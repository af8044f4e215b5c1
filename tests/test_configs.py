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

CHOICES = [
    (script, group, choice)
    for script in sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))
    for group in chosen_files(script)
    for choice in group_choices(script, group)
]


def _resolve(config: DictConfig) -> set[str]:
    """Return the names of all options, after giving a value to those that have none."""
    for key in missing_options(config):
        OmegaConf.update(config, key, "given")
    return {key for key, _ in flatten(resolve_config(config))}


@pytest.mark.parametrize(("script", "group", "choice"), CHOICES)
def test_choice_composes_and_experiments_set_only_options_that_exist(script, group, choice):
    given = _resolve(compose_config(script, [f"{group}={choice}"]))
    if group in ("experiment", "debug"):
        known = {key for key, _ in flatten(compose_config(script))}
        groups = chosen_files(script)
        unknown = {key for key in given - known if key.split(".")[0] not in groups}
        assert not unknown, f"{group}={choice} of {script} sets {sorted(unknown)}"
