"""Prompts name what they concern; words and parts without effect are said."""

import logging
from dataclasses import replace

import pytest
import torch
from transformers import CLIPTokenizer

from editing.guidance.loading import load_controlnet_guidance
from editing.guidance.vocabulary import ignored_words, unknown_words
from editing.objectives import ObjectiveView, make_objective
from editing.options import GuidanceOptions, ObjectiveOptions
from editing.prompts import log_fixed_parts, named_classes
from mate3d.checkpoints.assets import named_asset
from mate3d.label_files import load_label_map
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ, save_label_map
from scripts import edit
from training.prior.models import make_tokenizer

TINY = ["debug=tiny", "device=cpu"]


@pytest.fixture(scope="module")
def demo_tokenizer():
    return CLIPTokenizer.from_pretrained(named_asset("demo_prior") / "tokenizer")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a white cat with pointed Black Ears", "ears"),
        ("one blue eye, a noseless brown cat that hears", "eyes"),
        ("an orange cat, grey background", "background"),
        ("a cat with black fur and a pink nose", "skin nose"),
    ],
)
def test_parts_of_a_cat_are_named_in_plural_and_singular(text, names):
    ids = named_classes(text, CATMASK_HQ)
    assert [CATMASK_HQ.class_names[class_id] for class_id in ids] == names.split()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a man with blue eyes", "l_eye r_eye"),
        ("a blue left eye and brown hair", "l_eye hair"),
        ("the right ear, left eyebrow", "l_brow r_ear"),
        ("a red upper lip", "u_lip"),
        ("red lips wearing glasses, earrings and a necklace", "eye_g u_lip l_lip ear_r neck_l"),
        ("a woman in dark clothes", "cloth"),
    ],
)
def test_parts_of_a_person_have_sides_and_other_words(text, names):
    ids = named_classes(text, CELEBAMASK_HQ)
    assert [CELEBAMASK_HQ.class_names[class_id] for class_id in ids] == names.split()


def test_parts_that_may_not_change_are_said_with_what_would_let_them(caplog):
    eyes, ears = map(CATMASK_HQ.class_id, ("eyes", "ears"))
    log_fixed_parts("the prompts name", [ears, eyes, ears], [eyes], CATMASK_HQ)
    log_fixed_parts("the prompts name", [ears], [ears], CATMASK_HQ)
    (message,) = caplog.messages
    assert "name ears," in message and "edit_classes=[ears,eyes]" in message


def test_the_demo_prior_knows_the_words_of_its_captions_only(demo_tokenizer):
    known = demo_tokenizer.init_kwargs["caption_words"]
    # Byte pairs were joined until each word of the captions became one token.
    assert not [word for word in known if f"{word}</w>" not in demo_tokenizer.get_vocab()]
    text = "a Siamese cat, with two-coloured ears and a top hat; siamese"
    assert unknown_words(text, demo_tokenizer) == ["siamese", "top", "hat"]


def test_a_tokenizer_keeps_the_words_of_its_captions(tmp_path):
    options = {"vocabulary_size": 600, "max_tokens": 8}
    make_tokenizer(["A cat", "ein Kätzchen"], **options).save_pretrained(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert unknown_words("ein rotes kätzchen", tokenizer) == ["rotes"]
    others = CLIPTokenizer(vocab=tokenizer.get_vocab(), merges=[])
    assert unknown_words("ein rotes kätzchen", others) == []


def test_words_that_are_cut_are_the_ignored_ones(demo_tokenizer, capfd):
    # 48 tokens, two of them for start and end; an unknown word is many.
    text = " ".join(["black"] * 45)
    assert ignored_words(f"{text} cat", demo_tokenizer) == []
    assert ignored_words(f"{text} cat with ears", demo_tokenizer) == ["with", "ears"]
    assert ignored_words(f"{text} xyxyxy", demo_tokenizer) == ["xyxyxy"]
    assert ignored_words("", demo_tokenizer) == []
    # Not transformers' own line.
    assert capfd.readouterr().err == ""


def test_encoding_says_which_words_do_nothing(prior_folder, caplog):
    guidance = load_controlnet_guidance(GuidanceOptions(str(prior_folder)))
    guidance.encode_prompt("a cat")
    assert not caplog.messages
    # Eight tokens hold six letters.
    guidance.encode_prompt("a cat dog", label_prompts={2: "a red"})
    cut, unknown = caplog.messages
    assert cut.endswith(": dog") and unknown.endswith(": dog, red")


@pytest.mark.parametrize("name", ["sds", "csd", "dds", "denoised"])
def test_objectives_apply_prompts_of_labels_by_the_views_labels(prior_folder, name):
    guidance = load_controlnet_guidance(GuidanceOptions(str(prior_folder)))
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    control, inside = torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32, dtype=torch.bool)
    label_map = torch.zeros(1, 32, 32, dtype=torch.int64)
    label_map[..., :16] = 2
    options = ObjectiveOptions(blend="image", weighting="uniform")
    losses = {}
    for labels in ({}, {2: "ears"}, {3: "ears"}):
        embeds = guidance.encode_prompt("a cat", label_prompts=labels)
        generator = torch.Generator().manual_seed(0)
        view = ObjectiveView(image, None, control, image.detach(), control, inside, 0, 0.0)
        objective = make_objective(name, options, guidance, embeds, generator)
        losses[tuple(labels)] = objective.loss(replace(view, label_map=label_map)).item()
    assert losses[2,] != losses[()] == losses[3,]


@pytest.fixture(scope="module")
def words(generator_folder, prior_folder, tmp_path_factory):
    """A command line with a painted mask, without prompts and output."""
    folder = tmp_path_factory.mktemp("painted")
    edit.main([*TINY, f"generator={generator_folder}", f"output={folder}"])
    label_map = load_label_map(folder / "paint_me.png", CATMASK_HQ)
    label_map[8:24, 8:24] = CATMASK_HQ.class_id("ears")
    save_label_map(folder / "painted.png", label_map, CATMASK_HQ)
    mask = f"mask={folder / 'painted.png'}"
    return [*TINY, f"generator={generator_folder}", f"guidance.prior={prior_folder}", mask]


def test_an_edit_takes_prompts_of_labels(words, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    prompts = "prompts={ears: a cat a cat, skin: a cat}"
    short = ["edit.num_steps=1", "report.num_orbit_frames=1"]
    edit.main([*words, *short, "prompt=a cat with nose", prompts, f"output={tmp_path}"])
    assert (tmp_path / "receipt.json").is_file()
    log = (tmp_path / "log.txt").read_text()
    assert "name skin, nose, which may not change; use edit_classes=[skin,ears,nose]" in log
    assert "never seen these words, so they may do nothing: with, nose" in log


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("{earz: a cat}", "unknown class 'earz' in label set catmask_hq"),
        ("{ears: ''}", "prompts.ears="),
        ("black ears", "prompts=black ears; use"),
    ],
)
def test_wrong_prompts_are_named(fail, words, tmp_path, prompts, message):
    assert message in fail(edit.main, *words, f"prompts={prompts}", f"output={tmp_path}")
