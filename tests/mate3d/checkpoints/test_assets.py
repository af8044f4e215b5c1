"""Included files are known by name from any folder; other folders get a hint where to look."""

import os
from pathlib import Path

import pytest

from editing.masks import find_mask, load_painted_mask
from mate3d.checkpoint import load_generator, save_generator
from mate3d.checkpoints.assets import ASSETS, named_asset
from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ
from mate3d.metrics.feature_network import load_feature_network


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run from a folder that knows nothing of the project."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load_mask(path):
    return load_painted_mask(find_mask(path), CATMASK_HQ, 128)


def test_included_files_load_by_name():
    assert load_generator("demo_cat").config == load_generator(ASSETS / "demo_cat").config
    assert load_feature_network("procedural_features").config.attributes
    assert load_mask("demo_edit").equal(load_mask(ASSETS / "demo_edit" / "mask.png"))


@pytest.mark.parametrize("text", ["", ".", "..", "/", "demo_cat/", "demo_cat/card.md", "demo"])
def test_only_whole_names_are_assets(text):
    assert named_asset(text) is None


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (load_generator, "demo_cat"),
        (load_feature_network, "procedural_features"),
        (load_mask, "demo_edit"),
    ],
)
@pytest.mark.parametrize("wrong", ["no_such_name", "demo_prior"])
def test_unknown_name_lists_the_known_ones(load, name, wrong):
    with pytest.raises(UserError, match=f"included with MaTe3D: {name}$"):
        load(wrong)


def test_path_wins_where_it_is_written_as_one(tiny_generator, elsewhere):
    save_generator(elsewhere / "demo_cat", tiny_generator)
    assert load_generator("demo_cat").config.resolution == 128
    assert load_generator(f".{os.sep}demo_cat").config.resolution == 16


def test_run_folder_is_refused_with_the_checkpoint_in_it(tiny_generator, elsewhere):
    save_generator(elsewhere / "run" / "checkpoint", tiny_generator)
    with pytest.raises(UserError, match=r"; use run.checkpoint$"):
        load_generator("run")
    (elsewhere / "run" / "config.yaml").write_text("model: {generator: {}}\n")
    with pytest.raises(UserError, match=r"; use run.checkpoint$"):
        load_generator("run")


def test_results_folder_is_refused_with_the_generator_they_were_made_with(elsewhere):
    (elsewhere / "edit").mkdir()
    (elsewhere / "edit" / "config.yaml").write_text("generator: demo_cat\nseed: 7\n")
    with pytest.raises(UserError, match="edit is not a checkpoint but .* generator=demo_cat"):
        load_generator("edit")
