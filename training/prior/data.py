"""What the prior learns from: images, coloured label maps and captions, cached or streamed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from mate3d.errors import UserError
from mate3d.labels import LabelSet, colorize_label_map
from mate3d.procedural.portraits import make_procedural_cat
from training.data.dataset import PortraitDataset
from training.data.format import open_dataset
from training.data.loader import InfiniteSampler, make_loader

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
    """Colour a label map as the ControlNet sees it: palette colours, not centred."""
    return (colorize_label_map(label_map, label_set) + 1) / 2


def require_captions(path: str | Path) -> None:
    """Check that a data set describes all its images.

    Raises:
        UserError: If the data set is missing or malformed, or a caption is missing.
    """
    captions = open_dataset(path)[1].captions
    num_empty = sum(not caption.strip() for caption in captions)
    if num_empty:
        raise UserError(
            f"data set {path} has no caption for {num_empty} of {len(captions)} images; "
            "training a prior needs `captions` in its dataset.json"
        )


@dataclass
class CaptionedImages:
    """A data set held in memory."""

    images: Tensor  # [N, 3, H, W] uint8
    label_maps: Tensor  # [N, H, W] uint8
    captions: list[str]
    label_set: LabelSet


def load_images(dataset: PortraitDataset, *, max_images: int | None = None) -> CaptionedImages:
    """Read a whole data set, or its first `max_images`."""
    count = len(dataset) if max_images is None else min(max_images, len(dataset))
    items = [dataset[index] for index in range(count)]
    return CaptionedImages(
        images=torch.stack([item["image"] for item in items]),
        label_maps=torch.stack([item["label_map"] for item in items]),
        captions=[item["caption"] for item in items],
        label_set=dataset.label_set,
    )


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 images to [-1, 1]."""
    return images.float() / 127.5 - 1


def make_normal_maps(
    num: int,
    resolution: int,
    seed: int,
) -> tuple[Tensor, Tensor]:  # [num, 3, H, W] uint8, [num, H, W] uint8
    """Render normal maps of procedural heads, coloured as distillation shows them to the prior.

    Returns:
        The normal maps and their label maps.
    """
    normals = [torch.empty(0, 3, resolution, resolution)]
    label_maps = [torch.empty(0, resolution, resolution, dtype=torch.uint8)]
    for start in range(0, num, _ENCODE_BATCH):
        seeds = [seed + index for index in range(start, min(start + _ENCODE_BATCH, num))]
        render = make_procedural_cat(seeds, resolution, supersampling=1).render
        normals.append(render.normals.clamp(-1, 1))
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
    images: Tensor,  # [B, 3, H, W] in [-1, 1]
) -> tuple[Tensor, Tensor]:  # [B, 4, h, w], [B, 4, h, w]
    """Return mean and standard deviation of the latents."""
    posterior = vae.encode(images).latent_dist
    return posterior.mean, posterior.std


class CachedBatches(Iterator[PriorBatch]):
    """Batches of a data set in memory whose images are encoded once.

    Args:
        data: The data set.
        vae: Encodes the images; from here on it must not change.
        batch_size: Items of a batch.
        seed: Seed of the order.
        position: Items that are already used.
    """

    def __init__(
        self,
        data: CaptionedImages,
        vae: AutoencoderKL,
        *,
        batch_size: int,
        seed: int,
        position: int = 0,
    ):
        self._data = data
        self._batch_size = batch_size
        self._device = vae.device
        chunks = [
            encode_posterior(vae, to_float(images).to(vae.device))
            for images in data.images.split(_ENCODE_BATCH)
        ]
        self._means = torch.cat([mean for mean, _ in chunks])
        self._stds = torch.cat([std for _, std in chunks])
        self._order = iter(InfiniteSampler(len(data.captions), seed=seed, position=position))

    @property
    def latents(self) -> Tensor:  # [N, 4, h, w]
        """Means of all latents."""
        return self._means

    def __next__(self) -> PriorBatch:
        indices = [next(self._order) for _ in range(self._batch_size)]
        control = make_control_image(self._data.label_maps[indices], self._data.label_set)
        return PriorBatch(
            latent_mean=self._means[indices],
            latent_std=self._stds[indices],
            control=control.to(self._device),
            captions=[self._data.captions[index] for index in indices],
        )


def stream_batches(
    dataset: PortraitDataset,
    vae: AutoencoderKL,
    *,
    batch_size: int,
    seed: int,
    position: int = 0,
    num_workers: int = 0,
) -> Iterator[PriorBatch]:
    """Yield batches that are read and encoded when they are needed, for large data sets."""
    state = {"seed": seed, "position": position, "num_items": len(dataset)}
    for batch in make_loader(dataset, batch_size=batch_size, state=state, num_workers=num_workers):
        mean, std = encode_posterior(vae, to_float(batch["image"]).to(vae.device))
        control = make_control_image(batch["label_map"], dataset.label_set)
        yield PriorBatch(mean, std, control.to(vae.device), list(batch["caption"]))


def image_batches(
    images: Tensor,  # [N, 3, H, W] uint8
    label_maps: Tensor,  # [N, H, W] uint8
    *,
    batch_size: int,
    seed: int,
    position: int = 0,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:  # [B, 3, H, W] in [-1, 1], [B, H, W] int64
    """Yield shuffled batches of images and label maps without end."""
    order = iter(InfiniteSampler(len(images), seed=seed, position=position))
    while True:
        indices = [next(order) for _ in range(batch_size)]
        yield to_float(images[indices].to(device)), label_maps[indices].long().to(device)
