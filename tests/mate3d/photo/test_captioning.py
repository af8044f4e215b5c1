"""Tests of captioning networks, with a tiny BLIP made here."""

import pytest
from PIL import Image

from mate3d.errors import UserError
from mate3d.photo.captioning import CaptionModel
from tests.mate3d.photo.networks import save_captioner

PHOTO = Image.new("RGB", (30, 40), "red")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network that says "cat" whatever it sees."""
    folder = tmp_path_factory.mktemp("blip")
    save_captioner(folder)
    return folder


def test_caption_is_one_line_of_the_network_s_words_without_special_tokens(folder):
    model = CaptionModel(folder, max_new_tokens=4)
    assert model.caption(PHOTO) == " ".join(["cat"] * 4)
    assert model.caption(PHOTO.convert("L")) == model.caption(PHOTO)


def test_number_of_tokens_limits_the_caption(folder):
    assert len(CaptionModel(folder, max_new_tokens=2).caption(PHOTO).split()) == 2
    with pytest.raises(UserError, match="max_new_tokens=0; it must be at least 1"):
        CaptionModel(folder, max_new_tokens=0)


def test_model_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"model not found: .*none; use a folder or a hub id"):
        CaptionModel(tmp_path / "none")
    (tmp_path / "config.json").write_text('{"model_type": "segformer"}')
    with pytest.raises(UserError, match=r"cannot load model") as caught:
        CaptionModel(tmp_path)
    assert "\n" not in str(caught.value)
