"""Tests of captioning networks, with a tiny BLIP made here."""

import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

from mate3d.errors import UserError
from mate3d.photo.captioning import CaptionModel

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "with", "grey", "fur"]
PHOTO = Image.new("RGB", (30, 40), "red")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network that says "cat" whatever it sees."""
    folder = tmp_path_factory.mktemp("blip")
    tower = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 16,
    }
    text = {
        "vocab_size": len(WORDS),
        "encoder_hidden_size": 16,
        "max_position_embeddings": 32,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "sep_token_id": 3,
    }
    vision = {"image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    network = BlipForConditionalGeneration(
        BlipConfig(text_config=tower | text, vision_config=tower | vision, projection_dim=16)
    )
    network.text_decoder.cls.predictions.decoder.bias.data[WORDS.index("cat")] = 50.0
    network.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
    images = BlipImageProcessor(size={"height": 16, "width": 16})
    BlipProcessor(images, tokenizer).save_pretrained(folder)
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
