"""CLIP scores by torchmetrics, with a tiny CLIP made on the spot."""

import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from mate3d.errors import UserError
from mate3d.metrics.clip import ClipScore
from training.prior.models import make_tokenizer

TEXTS = ["a black cat", "an orange cat"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP of random weights in the hub's format."""
    tokenizer = make_tokenizer(TEXTS, vocabulary_size=600, max_tokens=16)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    text = dict(vocab_size=len(tokenizer), max_position_embeddings=16, **ids, **sizes)
    config = CLIPConfig(
        text_config=text, vision_config=dict(image_size=32, patch_size=8, **sizes), projection_dim=8
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(folder)
    pixels = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pixels, tokenizer).save_pretrained(folder)
    return folder


def test_score_is_the_cosine_of_both_embeddings(clip_folder):
    pictures = torch.randint(256, (8, 3, 48, 48), generator=torch.Generator().manual_seed(0))
    model = CLIPModel.from_pretrained(clip_folder).eval()
    processor = CLIPProcessor.from_pretrained(clip_folder)
    score, expected = ClipScore(clip_folder), []
    for index, picture in enumerate(pictures.to(torch.uint8)):
        text = TEXTS[index % 2]
        inputs = processor(text=[text], images=[picture], return_tensors="pt", padding=True)
        with torch.no_grad():
            cosine = model(**inputs).logits_per_image.item() / model.logit_scale.exp().item()
        expected.append(max(0.0, 100 * cosine))
        assert score(picture[None].float(), [text]) == pytest.approx(expected[-1], abs=1e-3)
    assert max(expected) > 0


@pytest.mark.parametrize("name", ["nowhere/at-all", "/nowhere"])
def test_missing_weights_are_a_users_error(name):
    with pytest.raises(UserError, match=f"no CLIP weights at '{name}'"):
        ClipScore(name)
