"""Options are checked, configured as documented, and a run folder has one writer."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from mate3d.errors import UserError
from tests.processes import killed_at_line
from training.run_folder.safety import SafetySettings, only_writer

CONFIG = Path(__file__).parents[3] / "configs/safety/default.yaml"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("keep_last", -1),
        ("keep_last", 1.5),
        ("keep_best", None),
        ("best_metric", "fdi"),
        ("max_rollbacks", -1),
        ("spike_factor", 1),
        ("spike_factor", float("nan")),
        ("spike_window", 0),
        ("rollback_lr_factor", 0),
        ("rollback_lr_factor", 1.1),
    ],
)
def test_a_wrong_option_is_named(option, value):
    with pytest.raises(UserError, match=rf"safety\.{option}={value}; use "):
        SafetySettings(**{option: value})


def test_the_configuration_holds_the_defaults():
    values = yaml.safe_load(CONFIG.read_text())
    assert dataclasses.asdict(SafetySettings()) == values


def test_a_run_folder_has_one_writer(tmp_path):
    with only_writer(tmp_path / "run"):
        with pytest.raises(UserError, match="another process trains in .*run; wait"):
            with only_writer(tmp_path / "run", patience_s=0):
                raise AssertionError("the block must not run")
    with only_writer(tmp_path / "run", patience_s=0):
        pass


def test_a_killed_writer_holds_nothing_and_its_leftovers_go(tmp_path):
    def hold():
        with only_writer(tmp_path):
            for folder in (tmp_path, tmp_path / "checkpoints"):
                (folder / ".partial.x").mkdir(parents=True)
            set_aside = tmp_path / ".replaced.x.checkpoint"
            set_aside.mkdir()
            yaml.safe_load("")

    assert killed_at_line(hold, 1, yaml)
    assert len(list(tmp_path.rglob(".*.x*"))) == 3
    with only_writer(tmp_path, patience_s=0):
        assert not list(tmp_path.rglob(".*.x*"))
        assert (tmp_path / "checkpoint").is_dir()
