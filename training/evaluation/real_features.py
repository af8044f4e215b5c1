"""Features of a dataset's images, computed once and cached on disk."""

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mate3d.atomic import atomic_file
from mate3d.checkpoints.storage import load_weights
from mate3d.errors import UserError
from torch_utils.distributed import (
    all_reduce_sum,
    broadcast_object,
    is_main,
    run_on_main,
    world,
)
from torch_utils.stages import stage
from training.data.dataset import PortraitDataset
from training.data.loader import MAX_UNREADABLE
from training.evaluation.judges import FeatureJudge, dataset_digest

_logger = logging.getLogger(__name__)
_KEY = "features"


def own_batches(count: int, batch_size: int) -> Iterator[list[int]]:
    """Yield this process's share of the samples 0 ... count - 1, in batches."""
    place = world()
    samples = list(range(place.rank, count, place.size))
    for start in range(0, len(samples), batch_size):
        yield samples[start : start + batch_size]


def real_features(
    dataset: PortraitDataset,
    judge: FeatureJudge,
    cache_folder: Path,
    *,
    num_real: int | None,
    batch_size: int,
    device: torch.device,
) -> Tensor:  # [N, F] float32 on CPU, on all processes
    """Return the features of all images, or of evenly spaced ones.

    Features computed earlier for the same images, resolution and network are read from
    `cache_folder`; otherwise each process computes its share.

    Args:
        dataset: Real images, including mirrored copies.
        cache_folder: Contains one file per dataset and network; can be shared by runs.
        num_real: Number of images; None uses all.

    Raises:
        UserError: If images cannot be read.
    """
    count = len(dataset) if num_real is None else min(num_real, len(dataset))
    name = f"real_{dataset_digest(dataset)}_{judge.name}_{judge.digest}_{count}.safetensors"
    path = cache_folder / name
    shape = (count, judge.network.num_features)
    # One process decides: others might not see the file, or see it appear in between.
    kept = _read(path, shape) if is_main() else None
    if broadcast_object(kept is not None):
        return all_reduce_sum(torch.zeros(shape) if kept is None else kept)
    features = torch.zeros(shape)
    _logger.info("no features of the real images yet; they will be in %s", path)
    with stage(f"Computing {judge.name} features of the real images", count) as bar:
        for places in own_batches(count, batch_size):
            items = [
                dataset.read_or_replace(place * len(dataset) // count, MAX_UNREADABLE)[0]
                for place in places
            ]
            images = torch.stack([item["image"] for item in items])
            with torch.no_grad():
                features[places] = judge.network(images.to(device)).float().cpu()
            bar.update(len(places) * world().size)
    features = all_reduce_sum(features)
    run_on_main(lambda: _write(path, features))
    return features


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        features = load_weights(path).get(_KEY)
    except UserError:
        features = None
    if features is None or features.shape != shape or features.dtype != torch.float32:
        _logger.warning("%s is damaged; computing its features again", path)
        return None
    return features


def _write(path: Path, features: Tensor) -> None:
    """Cache features; if that fails, only the next start is slower."""
    try:
        with atomic_file(path) as temporary:
            save_file({_KEY: features.contiguous()}, temporary)
    # On a full disk, safetensors does not raise an OSError.
    except Exception as error:
        _logger.warning("cannot cache features of real images: %s", error)
