"""Tiny networks in the format of transformers, saved where tests want them."""

from pathlib import Path

import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "with", "grey", "fur"]


def save_segmenter(folder: Path, names: list[str], only_class: int | None = None) -> Path:
    """Save a random network; it sees `only_class` everywhere if that is given."""
    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 8],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 1],
        mlp_ratios=[1, 1],
        decoder_hidden_size=8,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    network = SegformerForSemanticSegmentation(config).eval()
    if only_class is not None:
        torch.nn.init.zeros_(network.decode_head.classifier.weight)
        network.decode_head.classifier.bias.data = torch.eye(len(names))[only_class]
    network.save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def save_captioner(folder: Path) -> None:
    """Save a network that says "cat" whatever it sees."""
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
        "max_position_embeddings": 64,
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
