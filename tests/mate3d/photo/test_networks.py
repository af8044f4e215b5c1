"""Segmentation and captioning networks, with tiny ones made here."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ, get_label_set
from mate3d.photo.captioning import CaptionModel
from mate3d.photo.parsing import SegmentationModel
from tests.mate3d.photo.networks import save_captioner, save_segmenter

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 36, 3)).astype(np.uint8))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_label_map_is_what_transformers_itself_makes(tmp_path):
    folder = save_segmenter(tmp_path, list(CATMASK_HQ.class_names))
    processor = SegformerImageProcessor.from_pretrained(folder)
    network = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = network(**processor(images=PHOTO, return_tensors="pt"))
    expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[(48, 36)])[0]
    model = SegmentationModel(folder, CATMASK_HQ)
    label_map = model.label_map(PHOTO)
    np.testing.assert_array_equal(label_map, expected.numpy())
    assert len(np.unique(label_map)) > 1 and label_map.dtype == np.uint8
    np.testing.assert_array_equal(label_map, model.label_map(PHOTO.convert("RGBA")))


def test_names_in_other_words_fit_their_label_set(tmp_path):
    names = list(CELEBAMASK_HQ.class_names)
    names[3:5] = ["Eyeglasses", "Left_Eye"]
    names[0] = "unlabeled"
    assert (
        SegmentationModel(save_segmenter(tmp_path, names), CELEBAMASK_HQ).label_set is CELEBAMASK_HQ
    )


def test_models_that_are_not_there_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    (tmp_path / "broken" / "preprocessor_config.json").write_text("{}")
    folders = (tmp_path / name for name in ("none", "empty", "broken"))
    for location in (*folders, "someone/no-such-model"):
        with pytest.raises(UserError, match=str(location)) as caught:
            SegmentationModel(location, CATMASK_HQ)
        assert "\n" not in str(caught.value)


def test_classes_of_another_label_set_are_refused(tmp_path):
    bisenet = get_label_set("face_parsing_bisenet")
    folder = save_segmenter(tmp_path / "faces", list(bisenet.class_names))
    SegmentationModel(folder, bisenet)
    with pytest.raises(UserError, match="'l_brow' .* celebamask_hq has 'nose'"):
        SegmentationModel(folder, CELEBAMASK_HQ)
    folder = save_segmenter(tmp_path / "cats", list(CATMASK_HQ.class_names))
    with pytest.raises(UserError, match="6 classes .* celebamask_hq .* 19"):
        SegmentationModel(folder, CELEBAMASK_HQ)


def test_captions_are_words_without_special_tokens(tmp_path):
    # A network that says "cat" whatever it sees.
    save_captioner(tmp_path)
    caption = CaptionModel(tmp_path).caption(PHOTO)
    assert caption == CaptionModel(tmp_path).caption(PHOTO.convert("L"))
    assert set(caption.split(" ")) == {"cat"}
