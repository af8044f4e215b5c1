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
    with pytest.raises(UserError, match="max_new_tokens=0"):
        CaptionModel(folder, max_new_tokens=0)
