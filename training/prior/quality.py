"""How well a prior follows its conditions: label maps, and colours named in captions."""

from dataclasses import dataclass
from statistics import fmean

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from mate3d.diffusion.networks import PriorNetworks
from mate3d.labels import LabelSet
from mate3d.metrics.named_colors import color_agreement, fit_colors, named_colors
from mate3d.metrics.segmentation import confusion_matrix, iou_of_counts
from training.prior.data import CaptionedImages, joint_palette, make_control_image, to_float
from training.prior.models import draw_samples


@dataclass(frozen=True)
class PriorQuality:
    """Agreement of samples with their conditions; `image_*` are the same for real images.

    Args:
        mask_iou: IoU between label map and segmented sample, averaged over the classes.
        class_iou: The IoU of each class.
        color_agreement: For each part, the share of samples that have the colour named in the
            prompt, judged by the nearest mean colour of real images.
        reconstruction_psnr: PSNR of the autoencoder, in dB.
    """

    mask_iou: float
    image_mask_iou: float
    class_iou: dict[str, float]
    color_agreement: dict[str, float]
    image_color_agreement: dict[str, float]
    reconstruction_psnr: float


def measure_quality(
    networks: PriorNetworks,
    reference: CaptionedImages,
    held_out: CaptionedImages,
    label_set: LabelSet,
    *,
    guidance_scale: float,
    num_inference_steps: int = 20,
    segmenter_steps: int = 300,
    seed: int = 0,
) -> PriorQuality:
    """Draw samples under label maps and captions of different images, and compare.

    Args:
        reference: Real images, which the segmenter and the colours of words are learned from.
        held_out: Real images that provide the conditions.
        segmenter_steps: Training steps of the segmenter.
        seed: Seed of samples and segmenter.
    """
    images, label_maps = to_float(held_out.images), held_out.label_maps.long()
    # Captions are shifted by one, so that no sample has the caption of its own label map.
    prompts = held_out.captions[1:] + held_out.captions[:1]
    samples = draw_samples(
        networks,
        prompts,
        make_control_image(label_maps, joint_palette([label_set])),
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        seed=seed,
    )
    segmenter = train_segmenter(
        reference.images,
        reference.label_maps,
        label_set.num_classes,
        steps=segmenter_steps,
        seed=seed,
    )
    iou = class_iou(segmenter(samples).argmax(1), label_maps, label_set)
    image_iou = class_iou(segmenter(images).argmax(1), label_maps, label_set)
    real, sampled, held = (
        named_colors(pictures, maps, captions, label_set)
        for pictures, maps, captions in (
            (to_float(reference.images), reference.label_maps, reference.captions),
            (samples, label_maps, prompts),
            (images, label_maps, held_out.captions),
        )
    )
    known = fit_colors(real)
    return PriorQuality(
        mask_iou=fmean(iou.values()),
        image_mask_iou=fmean(image_iou.values()),
        class_iou=iou,
        color_agreement=color_agreement(sampled, known),
        image_color_agreement=color_agreement(held, known),
        reconstruction_psnr=_reconstruction_psnr(networks.vae, images),
    )


@torch.no_grad()
def _reconstruction_psnr(
    vae: AutoencoderKL,
    images: Tensor,  # [B, 3, H, W] in [-1, 1]
) -> float:
    output = vae.decode(vae.encode(images.to(vae.device)).latent_dist.mean).sample.cpu()
    errors = ((output.clamp(-1, 1) - images) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * errors.log10()).mean())


class _Segmenter(nn.Module):
    """A small U-shaped network from pixels to class scores."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.fine = nn.Conv2d(3, 24, 3, padding=1)
        self.middle = nn.Conv2d(24, 48, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(48, 64, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(64, 64, 3, padding=1)
        self.up_middle = nn.Conv2d(64 + 48, 48, 3, padding=1)
        self.up_fine = nn.Conv2d(48 + 24, num_classes, 3, padding=1)

    def forward(
        self,
        images: Tensor,  # [B, 3, H, W] in [-1, 1], H and W multiples of 4
    ) -> Tensor:  # [B, K, H, W]
        fine = self.fine(images).relu()
        middle = self.middle(fine).relu()
        deep = self.deep(self.coarse(middle).relu()).relu()
        features = torch.cat([F.interpolate(deep, scale_factor=2.0), middle], dim=1)
        features = F.interpolate(self.up_middle(features).relu(), scale_factor=2.0)
        return self.up_fine(torch.cat([features, fine], dim=1))


def train_segmenter(
    images: Tensor,  # [N, 3, H, W] uint8
    label_maps: Tensor,  # [N, H, W] uint8
    num_classes: int,
    *,
    steps: int,
    seed: int,
    batch_size: int = 32,
) -> nn.Module:
    """Return a frozen network from images in [-1, 1] to class scores [B, K, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        segmenter = _Segmenter(num_classes)
    optimizer = torch.optim.Adam(segmenter.parameters(), lr=3e-3)
    for _ in range(steps):
        indices = torch.randint(len(images), (batch_size,), generator=generator)
        scores = segmenter(to_float(images[indices]))
        loss = F.cross_entropy(scores, label_maps[indices].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return segmenter.eval().requires_grad_(False)


def class_iou(
    prediction: Tensor,  # [B, H, W] integer
    target: Tensor,  # [B, H, W] integer
    label_set: LabelSet,
) -> dict[str, float]:
    """Return the IoU over all images for each class that occurs in the target."""
    counts = confusion_matrix(prediction, target, label_set.num_classes)
    values = zip(label_set.class_names, iou_of_counts(counts).tolist(), strict=True)
    is_there = counts.sum(dim=1) > 0
    return {name: value for (name, value), flag in zip(values, is_there, strict=True) if flag}
