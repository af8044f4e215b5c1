"""Training data of the prior: images, coloured label maps and captions, cached or streamed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from mate3d.cameras import view_normals
from mate3d.errors import UserError
from mate3d.labels import LabelSet, colorize_label_map
from mate3d.procedural.portraits import make_procedural_cat
from training.data.dataset import PortraitDataset
from training.data.format import open_dataset
from training.data.loader import infinite_batches, make_loader

_ENCODE_BATCH = 32


@dataclass
class PriorBatch:
    """Inputs of one training step of the denoiser."""

    latent_mean: Tensor  # [B, 4, h, w], of the encoder's posterior, not scaled
    latent_std: Tensor  # [B, 4, h, w]
    control: Tensor  # [B, 3, H, W] in 0..1
    captions: list[str]


def make_control_image(
    label_map: Tensor,  # [B, H, W] integer
    label_set: LabelSet,
) -> Tensor:  # [B, 3, H, W] in 0..1
    """Colour a label map for the ControlNet: palette colours in 0..1."""
    return (colorize_label_map(label_map, label_set) + 1) / 2


def require_captions(path: str | Path) -> None:
    """Check that all images of a dataset have captions.

    Raises:
        UserError: If the dataset is missing or malformed, or a caption is missing.
    """
    captions = open_dataset(path)[1].captions
    num_empty = sum(not caption.strip() for caption in captions)
    if num_empty:
        raise UserError(
            f"dataset {path} has no caption for {num_empty} of {len(captions)} images; "
            "training a prior needs `captions` in its dataset.json"
        )


@dataclass
class CaptionedImages:
    """A dataset held in memory."""

    images: Tensor  # [N, 3, H, W] uint8
    label_maps: Tensor  # [N, H, W] uint8
    captions: list[str]
    label_set: LabelSet


def load_images(dataset: PortraitDataset, *, max_images: int | None = None) -> CaptionedImages:
    """Read a whole dataset, or its first `max_images`."""
    count = len(dataset) if max_images is None else min(max_images, len(dataset))
    batch = dataset.read_batch(range(count))
    return CaptionedImages(batch["image"], batch["label_map"], batch["caption"], dataset.label_set)


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 images to [-1, 1]."""
    return images.float() / 127.5 - 1


def make_normal_maps(
    num: int,
    resolution: int,
    seed: int,
) -> tuple[Tensor, Tensor]:  # [num, 3, H, W] uint8, [num, H, W] uint8
    """Render normal maps of procedural heads, coloured as distillation encodes them, and labels."""
    normals = [torch.empty(0, 3, resolution, resolution)]
    label_maps = [torch.empty(0, resolution, resolution, dtype=torch.uint8)]
    for start in range(0, num, _ENCODE_BATCH):
        seeds = [seed + index for index in range(start, min(start + _ENCODE_BATCH, num))]
        portraits = make_procedural_cat(seeds, resolution, supersampling=1)
        render = portraits.render
        normals.append(view_normals(render.normals, portraits.camera).clamp(-1, 1))
        label_maps.append(render.label_map.to(torch.uint8))
    images = (torch.cat(normals) * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    return images, torch.cat(label_maps)


def class_weights(
    label_maps: Tensor,  # [N, H, W] integer in 0..K-1
    num_classes: int,
    exponent: float,
) -> Tensor:  # [K]
    """Weight each class by its frequency to the power of `-exponent`; the mean over pixels is 1."""
    frequency = torch.bincount(label_maps.flatten().int(), minlength=num_classes).float()
    frequency /= frequency.sum()
    weights = torch.where(frequency > 0, frequency.clamp(min=1e-6) ** -exponent, 0.0)
    return weights / (frequency * weights).sum()


@torch.no_grad()
def encode_posterior(
    vae: AutoencoderKL,
    images: Tensor,  # [B, 3, H, W] uint8
) -> tuple[Tensor, Tensor]:  # [B, 4, h, w], [B, 4, h, w]
    """Return mean and standard deviation of the latents."""
    parts = [
        vae.encode(to_float(part).to(vae.device)).latent_dist
        for part in images.split(_ENCODE_BATCH)
    ]
    return torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts])


def cached_batches(
    data: CaptionedImages,
    means: Tensor,  # [N, 4, h, w]
    stds: Tensor,  # [N, 4, h, w]
    *,
    batch_size: int,
    seed: int,
    position: int = 0,
) -> Iterator[PriorBatch]:
    """Yield batches of encoded images in memory; `position` counts the items already used."""
    for rows in infinite_batches(len(means), batch_size, seed=seed, position=position):
        control = make_control_image(data.label_maps[rows], data.label_set)
        captions = [data.captions[row] for row in rows]
        yield PriorBatch(means[rows], stds[rows], control.to(means.device), captions)


def stream_batches(
    dataset: PortraitDataset,
    vae: AutoencoderKL,
    *,
    batch_size: int,
    seed: int,
    position: int = 0,
    num_workers: int = 0,
) -> Iterator[PriorBatch]:
    """Yield batches that are read and encoded on demand, for large datasets."""
    state = {"seed": seed, "position": position, "num_items": len(dataset)}
    # Making a loader draws one of PyTorch's random numbers; a resumed run must not.
    with torch.random.fork_rng(devices=[]):
        loader = make_loader(dataset, batch_size=batch_size, state=state, num_workers=num_workers)
    for batch in loader:
        control = make_control_image(batch["label_map"], dataset.label_set).to(vae.device)
        latents = encode_posterior(vae, batch["image"])
        yield PriorBatch(*latents, control, list(batch["caption"]))


def image_batches(
    images: Tensor,  # [N, 3, H, W] uint8
    label_maps: Tensor,  # [N, H, W] uint8
    *,
    batch_size: int,
    seed: int,
    position: int = 0,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:  # [B, 3, H, W] in [-1, 1], [B, H, W] int64
    """Yield shuffled batches of images and label maps endlessly."""
    for rows in infinite_batches(len(images), batch_size, seed=seed, position=position):
        yield to_float(images[rows].to(device)), label_maps[rows].long().to(device)
