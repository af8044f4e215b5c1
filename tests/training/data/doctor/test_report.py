"""The page about a diagnosis."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.training.data.doctor.broken import copy_dataset, swap_values
from training.data.doctor import check_dataset, write_report


class _Page(HTMLParser):
    """Collects what the page refers to, and checks that elements are closed in order."""

    _VOID = {"meta", "img", "rect", "circle", "line", "br", "link"}

    def __init__(self, text: str):
        super().__init__()
        self.open_tags: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        if tag not in self._VOID:
            self.open_tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._VOID and tag != "p":
            while self.open_tags and self.open_tags[-1] == "p":
                self.open_tags.pop()
            assert self.open_tags.pop() == tag
        elif tag == "p" and self.open_tags[-1] == "p":
            self.open_tags.pop()


def test_clean_data_gets_a_page_that_says_so(clean_dataset, tmp_path) -> None:
    path = write_report(check_dataset(clean_dataset("cats")), tmp_path / "report")
    text = path.read_text()
    page = _Page(text)
    assert path == tmp_path / "report" / "index.html"
    assert "No errors, no warnings." in text and "Ready for training" in text
    assert page.tags.count("svg") == 3 and page.tags.count("img") == 12
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "script" not in page.tags and not page.open_tags


def test_broken_data_gets_pictures_explanations_and_the_command(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    data.change_masks(data.names, lambda mask: swap_values(mask, (4, 5)))
    data.image_file(data.names[1]).write_bytes(b"<b>no image</b>")
    data.mask_file(data.names[2]).unlink()
    diagnosis = check_dataset(data.path)
    text = write_report(diagnosis, tmp_path).read_text()
    _Page(text)
    assert "3 errors, 0 warnings." in text and "Do not train" in text
    assert "mouth above the nose" in text and "fix=mouth_nose_swapped" in text
    assert re.search(r"check=true data=\S+/cats fix=all output=\S+/cats_repaired", text)
    saved = json.loads((tmp_path / "findings.json").read_text())
    assert [one["code"] for one in saved["findings"]] == [f.code for f in diagnosis.findings]
    assert saved["findings"][1]["names"] == [data.names[1]]


def test_no_command_is_made_of_a_url(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    data.change_cameras(data.names, lambda pose, k: (pose @ np.diag([1, -1, -1, 1.0]), k))
    shards = copy_dataset(data.path, tmp_path / "shards", shard_size=10)
    text = write_report(check_dataset(f"pipe:cat {shards}/{{}}"), tmp_path).read_text()
    assert "fix=camera_opengl" in text and "check=true" not in text


@pytest.mark.parametrize("what", ["images", "dataset.json"])
def test_a_page_is_made_even_of_almost_nothing(open_copy, tmp_path, what: str) -> None:
    data = open_copy("faces")
    for path in [data.path / what, *(data.path / what).rglob("*")]:
        if path.is_file():
            path.unlink()
    text = write_report(check_dataset(data.path), tmp_path / "report").read_text()
    assert "Do not train" in text


def test_names_are_escaped(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    data.index["captions"]["<script>alert(1)</script>"] = "x"
    data.index["labels"].append(["<script>alert(2)</script>.png", np.zeros(25).tolist()])
    data.save_index()
    text = write_report(check_dataset(data.path), tmp_path).read_text()
    assert "<script>" not in text and "&lt;script&gt;alert(2)" in text
