"""Tests of segmentation networks, with tiny ones made here."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ, get_label_set
from mate3d.photo.parsing import SegmentationModel
from tests.mate3d.photo.networks import save_segmenter

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 36, 3)).astype(np.uint8))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_label_map_has_the_size_of_the_photo_and_ids_of_the_set(tmp_path):
    model = SegmentationModel(save_segmenter(tmp_path, list(CATMASK_HQ.class_names)), CATMASK_HQ)
    label_map = model.label_map(PHOTO)
    assert label_map.shape == (48, 36) and label_map.dtype == np.uint8
    assert label_map.max() < CATMASK_HQ.num_classes
    np.testing.assert_array_equal(label_map, model.label_map(PHOTO.convert("RGBA")))


def test_label_map_is_what_transformers_itself_makes(tmp_path):
    folder = save_segmenter(tmp_path, list(CATMASK_HQ.class_names))
    processor = SegformerImageProcessor.from_pretrained(folder)
    network = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = network(**processor(images=PHOTO, return_tensors="pt"))
    expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[(48, 36)])[0]
    label_map = SegmentationModel(folder, CATMASK_HQ).label_map(PHOTO)
    np.testing.assert_array_equal(label_map, expected.numpy())
    assert len(np.unique(label_map)) > 1


def test_network_that_knows_one_class_gives_its_id(tmp_path):
    nose = CATMASK_HQ.class_id("nose")
    model = SegmentationModel(save_segmenter(tmp_path, ["LABEL"] * 6, nose), CATMASK_HQ)
    assert (model.label_map(PHOTO) == nose).all()


def test_names_in_other_words_fit_their_label_set(tmp_path):
    names = list(CELEBAMASK_HQ.class_names)
    names[3:5] = ["Eyeglasses", "Left_Eye"]
    names[0] = "unlabeled"
    assert (
        SegmentationModel(save_segmenter(tmp_path, names), CELEBAMASK_HQ).label_set is CELEBAMASK_HQ
    )


def test_order_of_another_label_set_is_an_error_with_both_lists(tmp_path):
    bisenet = get_label_set("face_parsing_bisenet")
    folder = save_segmenter(tmp_path, list(bisenet.class_names))
    SegmentationModel(folder, bisenet)
    with pytest.raises(UserError) as caught:
        SegmentationModel(folder, CELEBAMASK_HQ)
    message = str(caught.value)
    assert "class 2 'l_brow' where label set celebamask_hq has 'nose'" in message
    assert ", ".join(bisenet.class_names) in message
    assert ", ".join(CELEBAMASK_HQ.class_names) in message


def test_other_number_of_classes_is_an_error(tmp_path):
    folder = save_segmenter(tmp_path, list(CATMASK_HQ.class_names))
    with pytest.raises(UserError, match="has 6 classes but label set celebamask_hq 19"):
        SegmentationModel(folder, CELEBAMASK_HQ)


def test_models_that_are_not_there_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"model not found: .*none; use a folder or a hub id"):
        SegmentationModel(tmp_path / "none", CATMASK_HQ)
    with pytest.raises(UserError, match=r"has no config.json"):
        SegmentationModel(tmp_path, CATMASK_HQ)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot load model .*") as caught:
        SegmentationModel(tmp_path, CATMASK_HQ)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot load model someone/no-such-model") as caught:
        SegmentationModel("someone/no-such-model", CATMASK_HQ)
    assert "\n" not in str(caught.value)
