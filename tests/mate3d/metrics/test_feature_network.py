"""The network of features: what it returns, and what its folder must hold."""

import pytest
import torch

from mate3d.errors import UserError
from mate3d.metrics.feature_network import (
    FeatureNetwork,
    FeatureNetworkConfig,
    load_feature_network,
    save_feature_network,
)


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
