"""Parts of a prior's training: tokenizer, loss weights, label maps, quality."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ, colorize_label_map
from tests.training.data.shard_data import write_shards
from torch_utils.batch_random import BatchRandom
from training.data.dataset import PortraitDataset
from training.prior.data import (
    CaptionedDatasets,
    CaptionedImages,
    caption_phrases,
    class_weights,
    draw_captions,
    joint_palette,
    make_control_image,
    make_normal_maps,
)
from training.prior.models import make_scheduler, make_tokenizer
from training.prior.quality import class_iou, train_segmenter
from training.prior.steps import snr_weights

CAPTIONS = ["a black cat with blue eyes", "a grey cat with a pink nose", "a black cat"]


def test_tokenizer_learns_whole_words_and_encodes_any_text():
    tokenizer, again = (
        make_tokenizer(CAPTIONS, vocabulary_size=600, max_tokens=16) for _ in range(2)
    )
    assert tokenizer.get_vocab() == again.get_vocab()
    ids = tokenizer("black cat").input_ids
    assert tokenizer.convert_ids_to_tokens(ids[1:-1]) == ["black</w>", "cat</w>"]
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    tokens = tokenizer("Zürich").input_ids
    assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == "zürich"
    assert tokenizer.unk_token_id not in tokens[1:-1]
    for text in ("", "a black cat with blue eyes and more words" * 3):
        assert len(tokenizer(text, padding="max_length", truncation=True).input_ids) == 16


def test_control_image_shows_palette_colours_in_0_to_1():
    label_map = torch.arange(6).view(1, 2, 3)
    control = make_control_image(label_map, joint_palette([CATMASK_HQ]))
    expected = torch.tensor(CATMASK_HQ.palette).T.reshape(1, 3, 2, 3) / 255
    torch.testing.assert_close(control, expected)


def test_class_weights_average_to_one_over_the_pixels():
    label_maps = torch.tensor([[[0, 0, 0, 0], [0, 0, 0, 1]]], dtype=torch.uint8)
    weights = class_weights(label_maps, 3, exponent=0.5)
    torch.testing.assert_close(weights[label_maps.long()].mean(), torch.tensor(1.0))
    torch.testing.assert_close(weights[1] / weights[0], torch.tensor(math.sqrt(7)))
    assert weights[2] == 0


def test_normal_maps_show_both_kinds_of_heads_before_grey():
    images, label_maps = make_normal_maps(2, 16, 0, [CATMASK_HQ, CELEBAMASK_HQ])
    assert images.shape == (2, 3, 16, 16) and label_maps.shape == (2, 16, 16)
    cat, person = label_maps
    num_cat_classes = CATMASK_HQ.num_classes
    assert cat.max() < num_cat_classes <= person.min()
    for image, is_background in zip(images, (cat == 0, person == num_cat_classes), strict=True):
        assert set(image[:, is_background].flatten().tolist()) == {128}
    # No surface that is seen faces away: blue is towards the viewer.
    assert min(image[2].min() for image in images) > 120


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_snr_weights_cap_the_weight_of_clean_samples(prediction_type):
    scheduler = DDPMScheduler.from_config(make_scheduler().config, prediction_type=prediction_type)
    timesteps = torch.tensor([10, 999])
    alphas = scheduler.alphas_cumprod[timesteps]
    snr = alphas / (1 - alphas)
    unit = snr + 1 if prediction_type == "v_prediction" else snr
    expected = torch.stack([5 / unit[0], snr[1] / unit[1]])
    torch.testing.assert_close(snr_weights(scheduler, timesteps, 5.0), expected)


def test_class_iou_counts_classes_of_the_target_only():
    target = torch.tensor([[[0, 0, 1, 1]]])
    prediction = torch.tensor([[[0, 1, 1, 2]]])
    assert class_iou(prediction, target, CATMASK_HQ) == pytest.approx(
        {"background": 1 / 2, "skin": 1 / 3}
    )


def test_segmenter_learns_colours():
    images = torch.zeros(8, 3, 8, 8, dtype=torch.uint8)
    images[:, :, :, 4:] = 255
    label_maps = (images[:, 0] > 0).to(torch.uint8)
    reference = CaptionedImages(images, label_maps, [""] * 8)
    segment = train_segmenter(reference, 2, steps=20, seed=0)
    assert (segment(images.float() / 127.5 - 1) == label_maps).float().mean() > 0.9


def test_phrases_are_the_subject_and_the_parts_without_articles():
    assert caption_phrases("a white and grey cat with a pink nose and blue eyes, round ears") == [
        "a white and grey cat",
        "pink nose",
        "blue eyes",
        "round ears",
    ]
    assert caption_phrases("a man, wearing a red hat, and glasses") == [
        "a man",
        "red hat",
        "glasses",
    ]
    assert caption_phrases("a cat") == ["a cat"]


def test_drawn_captions_are_whole_single_phrases_or_empty():
    captions = ["a cat with blue eyes"] * 4000

    def draw() -> list[str]:
        random = BatchRandom((0,), range(len(captions)))
        return draw_captions(captions, dropout=0.5, phrase_share=0.4, random=random)

    counts = {text: draw().count(text) / 4000 for text in ("", captions[0], "a cat", "blue eyes")}
    expected = {"": 0.5, captions[0]: 0.3, "a cat": 0.1, "blue eyes": 0.1}
    assert counts == pytest.approx(expected, abs=0.03)
    assert draw() == draw()


def test_classes_of_several_datasets_do_not_mix(dataset_folder, tmp_path):
    people_folder = write_shards(tmp_path / "people", num_samples=4, side=16)
    paths = [str(dataset_folder), str(people_folder)]
    datasets = CaptionedDatasets(paths, 16, num_held_out=1)
    assert len(datasets) == 8
    for row, path in ((0, dataset_folder), (5, people_folder)):
        item, alone = datasets[row], PortraitDataset(path)[0]
        assert item["caption"] == alone["caption"]
        control = make_control_image(item["label_map"].unsqueeze(0), datasets.palette)
        own = (
            colorize_label_map(alone["label_map"].unsqueeze(0), PortraitDataset(path).label_set) + 1
        ) / 2
        torch.testing.assert_close(control, own)
    (_, cat), (_, person) = datasets.splits()
    assert (cat[0]["caption"], person[0]["caption"]) == ("cat number 5", "3")
    assert person[0]["label_map"].equal(PortraitDataset(people_folder)[3]["label_map"])
    assert datasets.examples(3).captions == ["cat number 0", "0", "cat number 1"]
