"""The network of features: what it returns, its folder, and what the one we ship knows."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mate3d.errors import UserError
from mate3d.metrics.feature_network import (
    FeatureNetwork,
    FeatureNetworkConfig,
    load_feature_network,
    save_feature_network,
)
from mate3d.metrics.frechet import frechet_distance
from mate3d.metrics.segmentation import confusion_matrix, mean_iou
from mate3d.procedural.portraits import make_procedural_cat, make_procedural_person


@pytest.fixture
def network():
    torch.manual_seed(0)
    config = FeatureNetworkConfig(
        attributes=("a", "b"),
        label_sets=("catmask_hq", "celebamask_hq"),
        resolution=16,
        channels=(4, 6, 8, 8),
        num_features=5,
        head_channels=8,
    )
    return FeatureNetwork(config).eval().requires_grad_(False)


def test_prediction_has_features_attributes_and_labels_of_each_set(network):
    prediction = network.predict(torch.rand(3, 3, 40, 40) * 2 - 1)
    assert prediction.features.shape == (3, 5) and prediction.features.min() >= 0
    assert prediction.attributes.shape == (3, 2)
    shapes = {name: tuple(scores.shape) for name, scores in prediction.segmentation.items()}
    assert shapes == {"catmask_hq": (3, 6, 16, 16), "celebamask_hq": (3, 19, 16, 16)}


def test_stored_images_have_the_features_of_the_same_floats(network):
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    expected = network.predict(images.float() / 127.5 - 1).features
    torch.testing.assert_close(network(images), expected)


def test_folder_holds_the_network_in_half_precision(network, tmp_path):
    save_feature_network(tmp_path / "model", network, card="# card")
    loaded = load_feature_network(tmp_path / "model")
    assert loaded.config == network.config and not loaded.training
    for name, value in loaded.state_dict().items():
        expected = network.state_dict()[name]
        torch.testing.assert_close(value, expected, atol=1e-3, rtol=1e-3)


def test_missing_or_damaged_folder_is_one_line(network, tmp_path):
    with pytest.raises(UserError, match="none"):
        load_feature_network(tmp_path / "none")
    folder = tmp_path / "model"
    save_feature_network(folder, network, card="")
    (folder / "features.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="features.safetensors"):
        load_feature_network(folder)
    (folder / "config.yaml").write_text("sizes: 3")
    with pytest.raises(UserError, match="sizes"):
        load_feature_network(folder)


def test_impossible_sizes_are_named():
    for name, value in (("resolution", 40), ("channels", (4, 4)), ("label_sets", ("dogs",))):
        with pytest.raises(UserError, match=name if name != "label_sets" else "dogs"):
            FeatureNetworkConfig(**({"attributes": (), "label_sets": ()} | {name: value}))


FOLDER = Path(__file__).parents[3] / "mate3d/assets" / "procedural_features"


@pytest.fixture(scope="module")
def shipped():
    return load_feature_network(FOLDER)


@pytest.fixture(scope="module")
def cats():
    return make_procedural_cat(range(10**6, 10**6 + 32), 64)


@torch.no_grad()
def test_labels_of_new_cats_and_people_agree_with_the_truth(shipped, cats):
    people = make_procedural_person(range(10**6, 10**6 + 8), 64)
    for portraits, name, least in ((cats, "catmask_hq", 0.75), (people, "celebamask_hq", 0.45)):
        scores = shipped.predict(portraits.render.image).segmentation[name]
        counts = confusion_matrix(
            scores.argmax(dim=1), portraits.render.label_map.long(), scores.shape[1]
        )
        assert mean_iou(counts) > least, name


@torch.no_grad()
def test_distance_grows_with_blur_and_noise(shipped, cats):
    images = cats.render.image
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=random)
    reduced = {side: F.interpolate(images, (side, side), mode="area") for side in (32, 16)}
    worse = [
        [images + 0.1 * noise, images + 0.3 * noise],
        [F.interpolate(reduced[side], (64, 64), mode="bilinear") for side in (32, 16)],
    ]
    real = shipped.predict(images).features
    for little, much in worse:
        distances = [
            frechet_distance(real, shipped.predict(changed).features) for changed in (little, much)
        ]
        assert 0 < distances[0] < distances[1]


@torch.no_grad()
def test_label_maps_have_the_size_of_the_pictures(shipped, cats):
    large = F.interpolate(cats.render.image[:4], (96, 96), mode="bilinear")
    label_maps = shipped.label_maps(large, "catmask_hq")
    assert label_maps.shape == (4, 96, 96)
    truth = F.interpolate(cats.render.label_map[:4, None].float(), (96, 96))[:, 0].long()
    assert mean_iou(confusion_matrix(label_maps, truth, 6)) > 0.7
