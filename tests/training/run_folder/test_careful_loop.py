"""A run folder has one writer, and a killed one leaves nothing behind."""

import pytest
import yaml

from mate3d.errors import UserError
from tests.processes import killed_at_line
from training.run_folder.careful_loop import only_writer


def test_a_run_folder_has_one_writer(tmp_path):
    with only_writer(tmp_path / "run"):
        with pytest.raises(UserError, match="another process is training in .*run; wait"):
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
