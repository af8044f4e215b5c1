"""The page about a diagnosis."""

import json
import re

import numpy as np
import pytest

from tests.pages import Page
from tests.training.data.doctor.broken import copy_dataset, swap_values
from training.data.doctor import check_dataset, write_report


def test_clean_data_gets_a_page_that_says_so(clean_dataset, tmp_path) -> None:
    path = write_report(check_dataset(clean_dataset("cats")), tmp_path / "report")
    page = Page(path.read_text())
    assert path == tmp_path / "report" / "index.html"
    assert "No errors, no warnings." in page.text and "Ready for training" in page.text
    assert page.tags.count("svg") == 2 and page.tags.count("img") == 12
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "script" not in page.tags


def test_broken_data_gets_pictures_explanations_and_the_command(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    data.change_masks(data.names, lambda mask: swap_values(mask, (4, 5)))
    data.image_file(data.names[1]).write_bytes(b"<b>no image</b>")
    data.mask_file(data.names[2]).unlink()
    data.index["labels"].append(["<script>alert(2)</script>.png", np.zeros(25).tolist()])
    data.save_index()
    diagnosis = check_dataset(data.path)
    page = Page(write_report(diagnosis, tmp_path).read_text())
    assert "Fix the errors" in page.text and "script" not in page.tags
    assert "<script>alert(2)</script>.png" in page.text
    assert "mouth above the nose" in page.text and "fix=mouth_nose_swapped" in page.text
    assert re.search(r"check=true data=\S+/cats fix=all output=\S+/cats_repaired", page.text)
    saved = json.loads((tmp_path / "findings.json").read_text())["findings"]
    assert [one["code"] for one in saved] == [finding.code for finding in diagnosis.findings]
    assert [data.names[1]] in [one["names"] for one in saved]


def test_no_command_is_made_of_a_url(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    data.change_cameras(data.names, lambda pose, k: (pose @ np.diag([1, -1, -1, 1.0]), k))
    shards = copy_dataset(data.path, tmp_path / "shards", shard_size=10)
    text = write_report(check_dataset(f"pipe:cat {shards}/{{}}"), tmp_path).read_text()
    assert "fix=camera_convention" in text and "check=true" not in text


@pytest.mark.parametrize("what", ["images", "dataset.json"])
def test_a_page_is_made_even_of_almost_nothing(open_copy, tmp_path, what: str) -> None:
    data = open_copy("faces")
    for path in [data.path / what, *(data.path / what).rglob("*")]:
        if path.is_file():
            path.unlink()
    text = write_report(check_dataset(data.path), tmp_path / "report").read_text()
    assert "Fix the errors" in text
