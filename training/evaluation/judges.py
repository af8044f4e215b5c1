"""Networks for evaluation: image features, and labels to compare masks with."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from mate3d.checkpoints.assets import folder_or_asset
from mate3d.errors import UserError
from mate3d.metrics.feature_network import (
    WEIGHTS_FILE,
    load_feature_network,
    resize_images,
)
from mate3d.metrics.inception import (
    WEIGHTS_NAME,
    file_digest,
    find_inception_weights,
    load_inception,
)
from mate3d.outputs.visualize import to_uint8
from mate3d.photo.parsing import SegmentationModel
from training.data.dataset import PortraitDataset
from training.evaluation.settings import MetricSettings

_PROCEDURAL_PREFIX = "procedural_"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureJudge:
    """A feature network."""

    name: str  # "procedural" or "inception"
    network: nn.Module  # from uint8 images [B, 3, H, W] to [B, num_features]
    digest: str  # hash of its weights


# From images [B, 3, H, W] in [-1, 1] to classes [B, R, R] int64, at the judge's own resolution.
LabelJudge = Callable[[Tensor], Tensor]


def is_procedural(dataset: PortraitDataset) -> bool:
    """Return whether a dataset is procedural, according to its index."""
    source = dataset.index.preparation.get("dataset", {})
    return str(source.get("name", "")).startswith(_PROCEDURAL_PREFIX)


def choose_features(
    settings: MetricSettings, dataset: PortraitDataset, device: torch.device
) -> FeatureJudge:
    """Return the feature network for FID and KID.

    Raises:
        UserError: If it is missing.
    """
    is_auto, is_rendered = settings.features == "auto", is_procedural(dataset)
    if settings.features == "inception" or (is_auto and not is_rendered):
        weights = find_inception_weights(settings.inception_weights)
        if weights is None:
            place = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME
            raise UserError(
                f"FID and KID {'of photos ' * is_auto}need Inception's weights; put "
                f"torch-fidelity's {WEIGHTS_NAME} at {place} or set metrics.inception_weights= "
                "(docs/metrics.md); metrics.names=[miou,eikonal] measures neither, so no "
                "checkpoint is kept as the best"
            )
        return FeatureJudge("inception", load_inception(weights, device), file_digest(weights))
    if not is_rendered:
        _logger.warning("FID and KID use procedural features, which say little about photos")
    folder = folder_or_asset(settings.procedural_network)
    network = load_feature_network(folder, device)
    return FeatureJudge("procedural", network, file_digest(folder / WEIGHTS_FILE))


def choose_labels(
    settings: MetricSettings, dataset: PortraitDataset, device: torch.device
) -> LabelJudge | None:
    """Return a judge of masks, or None, with a warning, if none fits the dataset and its labels.

    Raises:
        UserError: If a network cannot be loaded, or its classes differ from the dataset's.
    """
    label_set = dataset.label_set
    if label_set.num_classes == 0:
        return None
    if settings.parsing_model is not None:
        parser = SegmentationModel(settings.parsing_model, label_set, device=device)

        def parse(images: Tensor) -> Tensor:
            label_maps = [parser.label_map(Image.fromarray(p)) for p in to_uint8(images)]
            return torch.stack([torch.from_numpy(m).long() for m in label_maps]).to(images.device)

        return parse
    if is_procedural(dataset):
        network = load_feature_network(settings.procedural_network, device)
        if label_set.name in network.config.label_sets:
            return lambda images: network.predict(images).segmentation[label_set.name].argmax(1)
    _logger.warning(
        "mIoU is not measured: the procedural network does not support this dataset; set"
        " metrics.parsing_model= to a network with labels %s",
        label_set.name,
    )
    return None


def mask_at(
    segmentation: Tensor,  # [B, K, H, W] class scores
    side: int,
) -> Tensor:  # [B, side, side] int64
    """Return the most likely classes of a segmentation, resized."""
    return resize_images(segmentation, side).argmax(dim=1)


def dataset_digest(dataset: PortraitDataset) -> str:
    """Return a hash of a dataset's index, resolution, flips and a sample of its images."""
    index = dataset.index
    digest = hashlib.sha256()
    parts = (index.names, index.label_set.name, index.repeats.tolist(), dataset.resolution)
    digest.update(repr((*parts, dataset.with_flips)).encode())
    digest.update(index.cameras.tobytes())
    step = max(len(dataset) // 64, 1)
    for position in range(0, len(dataset), step):
        item, _ = dataset.read_or_replace(position, len(dataset))
        digest.update(item["image"].numpy().tobytes())
    return digest.hexdigest()[:16]
