"""Train the feature network: attributes, camera, labels and how degraded an image is."""

import json
import logging
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from mate3d.errors import UserError
from mate3d.labels import get_label_set
from mate3d.metrics.feature_network import (
    FeatureNetwork,
    FeatureNetworkConfig,
    FeatureNetworkSizes,
    FeaturePrediction,
    save_feature_network,
)
from mate3d.metrics.segmentation import confusion_matrix, mean_iou
from training.feature_network.degradations import DEGRADATIONS, degrade
from training.feature_network.portraits import Portraits, load_portraits, split_portraits
from training.feature_network.settings import FeatureTrainingSettings

MODEL_FOLDER = "model"
QUALITY_FILE = "quality.json"
_logger = logging.getLogger(__name__)


def train_feature_network(
    paths: Sequence[str],
    output: Path,
    settings: FeatureTrainingSettings,
    sizes: FeatureNetworkSizes,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    command: str = "",
    with_progress_bar: bool = False,
) -> Path:
    """Train a network, measure it on held-out portraits, and return its folder.

    Args:
        paths: Data sets with attributes.
        output: Run folder; receives `model/` and quality.json.
        settings: How it learns.
        sizes: Of the network.
        seed: Of weights, order and degradations.
        device: Where to train.
        command: What a user types for this run; goes on the card.
        with_progress_bar: Show a bar on stderr.

    Raises:
        UserError: If the data do not fit, or there are too few.
    """
    portraits = load_portraits(paths, sizes.resolution)
    training, held_out = split_portraits(portraits, settings.held_out)
    if len(training) < settings.batch_size:
        raise UserError(
            f"training.batch_size={settings.batch_size} is more than {len(training)} portraits"
        )
    config = FeatureNetworkConfig(
        attributes=(*portraits.attribute_names, *DEGRADATIONS),
        label_sets=portraits.label_set_names,
        **vars(sizes),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FeatureNetwork(config).to(device)
    seconds, steps = _optimize(network, training, settings, seed, with_progress_bar)
    quality = measure_network(network, held_out, settings, seed)
    (output / QUALITY_FILE).write_text(json.dumps(quality, indent=2) + "\n")
    card = _make_card(network, quality, len(training), command, seconds, steps)
    save_feature_network(output / MODEL_FOLDER, network, card=card)
    _logger.info("quality: %s", {name: round(value, 3) for name, value in quality.items()})
    return output / MODEL_FOLDER


def _optimize(
    network: FeatureNetwork,
    portraits: Portraits,
    settings: FeatureTrainingSettings,
    seed: int,
    with_progress_bar: bool,
) -> tuple[float, int]:
    """Train in place; return seconds and steps."""
    device = next(network.parameters()).device
    random = torch.Generator().manual_seed(seed)
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    start, step = time.monotonic(), 0
    bar = tqdm(total=settings.steps, unit="step", disable=not with_progress_bar)
    order = torch.empty(0, dtype=torch.long)
    while step < settings.steps:
        minutes = (time.monotonic() - start) / 60
        progress = step / settings.steps
        if settings.max_minutes is not None:
            progress = max(progress, minutes / settings.max_minutes)
            if progress >= 1:
                break
        rate = settings.learning_rate * min(1.0, progress * 20 + 0.02)
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * progress))
        if len(order) < settings.batch_size:
            order = torch.randperm(len(portraits), generator=random)
        batch, order = portraits[order[: settings.batch_size]], order[settings.batch_size :]
        images, amounts = _degraded(batch.images.to(device), settings, random)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            prediction = network.predict(images)
        losses = feature_losses(prediction, batch, amounts)
        loss = losses["attributes"] + settings.label_weight * losses["labels"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        step += 1
        bar.update()
        if step % 100 == 0 or step == settings.steps:
            texts = [f"{name} {value.item():.3f}" for name, value in losses.items()]
            _logger.info("step %d  %s  %.1f min", step, "  ".join(texts), minutes)
    bar.close()
    network.eval().to(memory_format=torch.contiguous_format)
    return time.monotonic() - start, step


def _degraded(
    images: Tensor,  # [B, 3, R, R] uint8
    settings: FeatureTrainingSettings,
    random: torch.Generator,
) -> tuple[Tensor, Tensor]:  # [B, 3, R, R] in [-1, 1], amounts [B, 3]
    return degrade(
        images.float() / 127.5 - 1,
        random,
        share=settings.degraded_share,
        max_blur=settings.max_blur,
        max_noise=settings.max_noise,
        max_warp=settings.max_warp,
    )


def feature_losses(
    prediction: FeaturePrediction,
    portraits: Portraits,
    amounts: Tensor,  # [B, 3] in 0..1, of the degradations
) -> dict[str, Tensor]:
    """Return the mean squared error of all known numbers, and the labels' cross entropy."""
    device = prediction.features.device
    # Amounts are 0..1; three deviations wide, they weigh about as much as an attribute.
    targets = torch.cat([portraits.attributes, 3 * amounts.cpu()], dim=1).to(device)
    is_known = ~targets.isnan()
    errors = (prediction.attributes.float() - targets.nan_to_num()).square() * is_known
    label_maps = portraits.label_maps.to(device).long()
    total = prediction.features.new_zeros(())
    for number, name in enumerate(portraits.label_set_names):
        is_of_set = (portraits.label_set == number).to(device)
        if is_of_set.any():
            scores = prediction.segmentation[name][is_of_set].float()
            entropy = F.cross_entropy(scores, label_maps[is_of_set], reduction="none")
            total = total + entropy.mean(dim=(1, 2)).sum()
    return {"attributes": errors.sum() / is_known.sum(), "labels": total / len(portraits)}


@torch.no_grad()
def measure_network(
    network: FeatureNetwork,
    portraits: Portraits,
    settings: FeatureTrainingSettings,
    seed: int,
) -> dict[str, float]:
    """Return how much of the numbers' variance it explains, and its labels' mean IoU.

    Undegraded portraits, except for `r2_degraded`.
    """
    device = next(network.parameters()).device
    random = torch.Generator().manual_seed(seed + 1)
    attributes, degraded, amounts = [], [], []
    counts = {
        name: torch.zeros(get_label_set(name).num_classes, get_label_set(name).num_classes)
        for name in portraits.label_set_names
    }
    for rows in torch.arange(len(portraits)).split(settings.batch_size):
        batch = portraits[rows]
        images = batch.images.to(device)
        prediction = network.predict(images.float() / 127.5 - 1)
        attributes.append(prediction.attributes.cpu())
        worse, amount = _degraded(images, settings, random)
        degraded.append(network.predict(worse).attributes.cpu())
        amounts.append(3 * amount.cpu())
        for number, name in enumerate(portraits.label_set_names):
            is_of_set = batch.label_set == number
            label_maps = prediction.segmentation[name].argmax(dim=1).cpu()[is_of_set]
            reference = batch.label_maps[is_of_set].long()
            counts[name] += confusion_matrix(label_maps, reference, len(counts[name]))
    count = len(portraits.attribute_names)
    explained = _explained(torch.cat(attributes)[:, :count], portraits.attributes)
    quality = {}
    for kind in ("view", *portraits.label_set_names):
        chosen = [name.startswith(f"{kind}.") for name in portraits.attribute_names]
        quality[f"r2_{kind}"] = float(explained[torch.tensor(chosen)].nanmean())
    quality["r2_degraded"] = float(
        _explained(torch.cat(degraded)[:, count:], torch.cat(amounts)).mean()
    )
    return quality | {f"miou_{name}": mean_iou(matrix) for name, matrix in counts.items()}


def _explained(values: Tensor, targets: Tensor) -> Tensor:  # [N, A] each -> [A]
    """Return the share of each target's variance that the values explain, where it is known."""
    errors = (values - targets).square().nanmean(dim=0)
    return 1 - errors / (targets - targets.nanmean(dim=0)).square().nanmean(dim=0)


def _make_card(
    network: FeatureNetwork,
    quality: dict[str, float],
    num_portraits: int,
    command: str,
    seconds: float,
    steps: int,
) -> str:
    config = asdict(network.config)
    num_weights = sum(weight.numel() for weight in network.parameters())
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in quality.items())
    return f"""# Procedural features

A network of {num_weights / 1e6:.2f} M weights that looks at {config["resolution"]} px portraits
and gives {config["num_features"]} features, from which it predicts {len(config["attributes"])}
numbers: attributes, view direction, and how blurred, noisy and bent an image is. It also labels
each pixel ({", ".join(config["label_sets"])}). docs/metrics.md says what it is good for.

- command: `{command}`
- data: {num_portraits} portraits
- training: {steps} steps, {seconds / 60:.1f} minutes
- hardware: {platform.machine()}, {torch.get_num_threads()} thread(s)
- software: Python {platform.python_version()}, PyTorch {torch.__version__}

Measured on held-out portraits: share of explained variance (`r2`), mean IoU of labels.

| value | |
|---|---|
{rows}
"""
