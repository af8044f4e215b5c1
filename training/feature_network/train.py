"""Train the feature network to predict attributes, camera, labels and image degradation."""

import json
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mate3d.atomic import atomic_file
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
from torch_utils.batch_random import BatchRandom
from torch_utils.interruption import stop_on_signal
from training.data.loader import infinite_batches
from training.feature_network.degradations import DEGRADATIONS, degrade
from training.feature_network.portraits import Portraits, load_portraits, split_portraits
from training.feature_network.settings import FeatureTrainingSettings
from training.run_folder.careful_loop import report_stop
from training.run_folder.monitor import Monitor
from training.run_folder.state_file import STATE_FILE, read_state, restore_random, write_state
from training.supervised_stage import Stage

MODEL_FOLDER = "model"
QUALITY_FILE = "quality.json"
_TICK_STEPS, _SNAPSHOT_STEPS = 100, 500
_logger = logging.getLogger(__name__)


def train_feature_network(
    paths: Sequence[str],
    output: Path,
    settings: FeatureTrainingSettings,
    sizes: FeatureNetworkSizes,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    resume: bool = False,
    command: str = "",
) -> Path | None:
    """Train a network and measure it on held-out portraits.

    Args:
        paths: Datasets with attributes.
        output: Run folder; receives `model/`, quality.json, logs and the state to resume from.
        seed: Seed of weights, order and degradations.
        resume: Continue from the state in `output`.
        command: Starts this run; appears on the card and in the log line about resuming it.

    Returns:
        The model folder, or None if a signal stopped the run.

    Raises:
        UserError: If the data or the state does not fit, or training diverges.
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
    network.train().to(memory_format=torch.channels_last)
    stage = Stage(
        "features",
        {"network": network},
        settings,
        warmup=lambda _, progress: 20 * progress + 0.02,
        max_norm=5.0,
    )
    state_path = output / STATE_FILE
    model = [asdict(config), len(training)]
    if resume:
        state = read_state(state_path, model)
        stage.load_state_dict(state)
        restore_random(state)
    output.mkdir(parents=True, exist_ok=True)
    images_seen = stage.step * settings.batch_size
    rows = infinite_batches(len(training), settings.batch_size, seed=seed, position=images_seen)
    monitor = Monitor(
        output,
        images_seen=images_seen,
        total_images=settings.steps * settings.batch_size,
    )
    with closing(monitor), stop_on_signal() as should_stop:
        stage.run(
            lambda _: _compute_losses(
                network, training, next(rows), settings, BatchRandom((seed, stage.step), ()).shared
            ),
            lambda: write_state(state_path, stage.state_dict(), model),
            monitor,
            should_stop=should_stop,
            tick_steps=_TICK_STEPS,
            snapshot_steps=_SNAPSHOT_STEPS,
        )
    if not stage.is_finished:
        report_stop(stage.position, command)
        return None
    network = stage.averages["network"].to(memory_format=torch.contiguous_format)
    quality = measure_network(network, held_out, settings, seed)
    with atomic_file(output / QUALITY_FILE) as path:
        path.write_text(json.dumps(quality, indent=2) + "\n")
    card = _make_card(network, quality, len(training), command)
    save_feature_network(output / MODEL_FOLDER, network, card=card)
    _logger.info("quality: %s", {name: round(value, 3) for name, value in quality.items()})
    return output / MODEL_FOLDER


def _compute_losses(
    network: FeatureNetwork,
    portraits: Portraits,
    rows: list[int],
    settings: FeatureTrainingSettings,
    random: torch.Generator,
) -> dict[str, Tensor]:
    device, batch = next(network.parameters()).device, portraits[torch.tensor(rows)]
    images, amounts = _degraded(batch.images.to(device), settings, random)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        prediction = network.predict(images)
    losses = feature_losses(prediction, batch, amounts)
    return {"loss": losses["attributes"] + settings.label_weight * losses["labels"], **losses}


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
    """Return the mean squared error over known numbers, and the cross entropy of the labels."""
    device = prediction.features.device
    # Amounts are in 0..1; times 3, they weigh about as much as an attribute.
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
    """Return the explained share of variance of the numbers, and the mean IoU of the labels.

    All but `r2_degraded` are measured on undegraded portraits.
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
    """Return the share of each target's variance that the values explain, ignoring NaN."""
    errors = (values - targets).square().nanmean(dim=0)
    return 1 - errors / (targets - targets.nanmean(dim=0)).square().nanmean(dim=0)


def _make_card(
    network: FeatureNetwork, quality: dict[str, float], num_portraits: int, command: str
) -> str:
    config = asdict(network.config)
    num_weights = sum(weight.numel() for weight in network.parameters())
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in quality.items())
    return f"""# Procedural features

A network of {num_weights / 1e6:.2f} M weights for {config["resolution"]} px portraits. From
{config["num_features"]} features it predicts {len(config["attributes"])} numbers: attributes,
view direction, and how blurred, noisy and warped an image is. It also labels each pixel
({", ".join(config["label_sets"])}). docs/metrics.md describes its uses.

- command: `{command}`
- data: {num_portraits} portraits

Measured on held-out portraits: explained share of variance (`r2`), mean IoU of labels.

| value | |
|---|---|
{rows}
"""
