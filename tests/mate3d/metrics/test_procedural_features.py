"""The features that come with the project know portraits they have not seen."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mate3d.metrics.feature_network import load_feature_network
from mate3d.metrics.frechet import frechet_distance
from mate3d.metrics.segmentation import confusion_matrix, mean_iou
from mate3d.procedural.portraits import make_procedural_cat, make_procedural_person

FOLDER = Path(__file__).parents[3] / "assets" / "procedural_features"


@pytest.fixture(scope="module")
def network():
    return load_feature_network(FOLDER)


@pytest.fixture(scope="module")
def cats():
    return make_procedural_cat(range(10**6, 10**6 + 32), 64)


@torch.no_grad()
def test_labels_of_new_cats_and_people_agree_with_the_truth(network, cats):
    people = make_procedural_person(range(10**6, 10**6 + 8), 64)
    for portraits, name, least in ((cats, "catmask_hq", 0.75), (people, "celebamask_hq", 0.45)):
        scores = network.predict(portraits.render.image).segmentation[name]
        counts = confusion_matrix(
            scores.argmax(dim=1), portraits.render.label_map.long(), scores.shape[1]
        )
        assert mean_iou(counts) > least, name


@torch.no_grad()
def test_distance_grows_with_blur_and_noise(network, cats):
    images = cats.render.image
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=random)
    reduced = {side: F.interpolate(images, (side, side), mode="area") for side in (32, 16)}
    worse = [
        [images + 0.1 * noise, images + 0.3 * noise],
        [F.interpolate(reduced[side], (64, 64), mode="bilinear") for side in (32, 16)],
    ]
    real = network.predict(images).features
    for little, much in worse:
        distances = [
            frechet_distance(real, network.predict(changed).features) for changed in (little, much)
        ]
        assert 0 < distances[0] < distances[1]
