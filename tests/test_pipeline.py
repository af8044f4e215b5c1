"""The whole path: each script runs on the files that the one before it wrote."""

import pytest

from mate3d.checkpoint import load_generator
from tests.pipeline import run_every_script


@pytest.mark.slow
def test_data_generator_prior_pictures_and_edit_follow_from_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_every_script(200, "device=cpu")
    assert load_generator("run/checkpoint").config.resolution == 32
    for name in ("edited.png", "views.png", "orbit.mp4", "report.html", "edit.safetensors"):
        assert (tmp_path / "edit" / name).stat().st_size > 0, name
    for name in ("sheet_image.png", "sheet_segmentation.png", "metadata.json"):
        assert (tmp_path / "heads" / name).stat().st_size > 0, name
