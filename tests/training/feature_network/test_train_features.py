"""Training the network of features: targets, degradations, and the script."""

import json

import pytest
import torch

from mate3d.metrics.feature_network import FeaturePrediction, load_feature_network
from scripts import prepare_data, train_features
from training.feature_network.degradations import degrade
from training.feature_network.portraits import Portraits, load_portraits, split_portraits
from training.feature_network.train import feature_losses


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight cats and eight people of 16 px."""
    folder = tmp_path_factory.mktemp("data")
    for kind in ("cat", "person"):
        words = ["debug=tiny", f"dataset=procedural_{kind}", "resolution=16"]
        prepare_data.main([*words, f"output={folder / kind}", f"paths.outputs={folder}"])
    return folder


def test_numbers_are_standardized_and_unknown_for_the_other_kind(data):
    portraits = load_portraits([str(data / "cat"), str(data / "person")], 16)
    assert portraits.label_set_names == ("catmask_hq", "celebamask_hq")
    names = portraits.attribute_names
    is_cat = torch.tensor([name.startswith("catmask_hq.") for name in names])
    is_view = torch.tensor([name.startswith("view.") for name in names])
    assert "catmask_hq.fur_color.r" in names and "celebamask_hq.smile" in names
    # Constants of these portraits are left out.
    assert "catmask_hq.tongue" not in names
    assert portraits.attributes[8:, is_cat].isnan().all()
    assert not portraits.attributes[:8, is_cat | is_view].isnan().any()
    mean = portraits.attributes.nanmean(dim=0)
    spread = (portraits.attributes - mean).square().nanmean(dim=0).sqrt()
    torch.testing.assert_close(mean, torch.zeros(len(names)), atol=1e-4, rtol=0)
    torch.testing.assert_close(spread, torch.ones(len(names)), atol=1e-4, rtol=0)


def test_held_out_portraits_are_not_trained_on(data):
    portraits = load_portraits([str(data / "cat")], 16)
    training, held_out = split_portraits(portraits, 0.25)
    assert (len(training), len(held_out)) == (6, 2)
    for image in held_out.images:
        assert not (training.images == image).flatten(1).all(dim=1).any()


def test_loss_is_zero_for_the_truth_and_ignores_what_is_unknown():
    label_maps = torch.tensor([[[0, 1], [2, 3]]], dtype=torch.uint8)
    portraits = Portraits(
        images=torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
        label_maps=label_maps,
        label_set=torch.tensor([0]),
        label_set_names=("catmask_hq", "celebamask_hq"),
        attributes=torch.tensor([[0.5, torch.nan]]),
        attribute_names=("a", "b"),
    )
    scores = torch.nn.functional.one_hot(label_maps.long(), 6).movedim(-1, 1) * 100.0
    prediction = FeaturePrediction(
        features=torch.zeros(1, 4),
        attributes=torch.tensor([[0.5, 7.0, 0.0, 1.5, 0.0]], requires_grad=True),
        segmentation={"catmask_hq": scores, "celebamask_hq": torch.zeros(1, 19, 2, 2)},
    )
    losses = feature_losses(prediction, portraits, torch.tensor([[0.0, 0.5, 0.0]]))
    assert losses["attributes"].item() == 0 and losses["labels"].item() < 1e-6
    losses["attributes"].backward()
    assert not prediction.attributes.grad.isnan().any()


def _degrade(images, **amounts):
    options = {"share": 1.0, "max_blur": 0.0, "max_noise": 0.0, "max_warp": 0.0} | amounts
    return degrade(images, torch.Generator().manual_seed(0), **options)


def test_degradation_of_nothing_changes_nothing():
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(_degrade(images)[0], images, atol=1e-5, rtol=0)
    unchanged, amounts = _degrade(images, share=0.0, max_blur=3.0, max_noise=1.0, max_warp=0.1)
    torch.testing.assert_close(unchanged, images, atol=1e-5, rtol=0)
    assert not amounts.any()


def test_each_degradation_grows_with_its_amount():
    images = torch.zeros(64, 3, 32, 32)
    images[..., 16:] = 0.5
    for place, options in enumerate(({"max_blur": 2.0}, {"max_noise": 0.3}, {"max_warp": 0.05})):
        worse, amounts = _degrade(images, **options)
        errors = (worse - images).square().mean(dim=(1, 2, 3))
        pair = torch.stack([amounts[:, place], errors])
        assert torch.corrcoef(pair)[0, 1] > 0.5, options


def test_script_trains_a_network_that_loads_and_repeats(data, tmp_path):
    words = ["debug=tiny", f"data=[{data / 'cat'},{data / 'person'}]"]
    for name in ("a", "b"):
        train_features.main([*words, f"output={tmp_path / name}"])
    quality = json.loads((tmp_path / "a" / "quality.json").read_text())
    assert {"r2_view", "r2_catmask_hq", "r2_degraded", "miou_celebamask_hq"} <= set(quality)
    first, second = (load_feature_network(tmp_path / name / "model") for name in ("a", "b"))
    assert first.config.label_sets == ("catmask_hq", "celebamask_hq")
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    card = (tmp_path / "a" / "model" / "card.md").read_text()
    assert "python -m scripts.train_features" in card and "r2_view" in card


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=[]"], "give at least one dataset"),
        (["data=[nowhere]"], "nowhere"),
        (["data=[{plain}]"], "has images without attributes"),
        (["training.steps=0"], "training.steps=0; use an integer of at least 1"),
        (["training.degraded_share=2"], "training.degraded_share=2"),
        (["training.batch_size=100"], "training.batch_size=100 is more than"),
        (["network.channels=[3,4]"], "network.channels=[3,4]; use a list of 4"),
    ],
)
def test_wrong_input_is_one_line(data, dataset_folder, tmp_path, fail, words, message):
    words = [word.replace("{plain}", str(dataset_folder)) for word in words]
    fixed = ["debug=tiny", f"data=[{data / 'cat'}]", f"output={tmp_path / 'out'}"]
    assert message in fail(train_features.main, *fixed, *words)
