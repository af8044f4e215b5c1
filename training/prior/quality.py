"""How well a prior follows its conditions: label maps, and colours named in captions."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mate3d.diffusion.networks import PriorNetworks
from mate3d.errors import UserError
from mate3d.label_conversion import find_conversion
from mate3d.labels import LabelSet, get_mask_label_set
from mate3d.metrics.named_colors import color_agreement, fit_colors, named_colors
from mate3d.metrics.segmentation import confusion_matrix, iou_of_counts
from mate3d.outputs.visualize import to_uint8
from mate3d.photo.parsing import SegmentationModel
from training.prior.data import (
    CaptionedDatasets,
    CaptionedImages,
    joint_palette,
    load_images,
    make_control_image,
    to_float,
)
from training.prior.models import MAX_PIXELS, draw_samples
from training.prior.options import PriorOptions

# From images [B, 3, H, W] in [-1, 1] to classes [B, H, W].
Segmenter = Callable[[Tensor], Tensor]
# At most so many pixels of real images are compared with: 4096 of 64 x 64.
_REFERENCE_PIXELS = 2**24
# The small segmenter sees about 20 pixels around each, too few for larger images.
_MAX_SEGMENTER_RESOLUTION = 128
_SEGMENTER_BATCH = 32


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


class QualityCheck:
    """Measures a prior on the held-out images of every dataset.

    Creating one before the training finds options that do not fit.

    Raises:
        UserError: If the parser cannot be loaded, or images are too large for the small segmenter.
    """

    def __init__(self, datasets: CaptionedDatasets, options: PriorOptions):
        self._datasets, self._options = datasets, options
        self._parser, self._label_set = None, None
        parser = options.quality_parser
        if parser.model is not None:
            self._label_set = get_mask_label_set(parser.label_set)
            self._parser = SegmentationModel(parser.model, self._label_set, device=options.device)
            for label_set in datasets.label_sets:
                find_conversion(self._label_set, label_set)
        elif options.resolution > _MAX_SEGMENTER_RESOLUTION:
            raise UserError(
                f"quality_samples={options.quality_samples} at {options.resolution} px needs"
                " quality_parser.model=...; without it, a small network is trained to segment"
                f" images of up to {_MAX_SEGMENTER_RESOLUTION} px"
            )

    def measure(self, networks: PriorNetworks) -> dict[str, PriorQuality]:
        """Return the quality for each dataset, by path."""
        count = _REFERENCE_PIXELS // self._options.resolution**2
        return {
            held_out.source.path: self._measure(
                networks,
                load_images(training, range(min(len(training), count))),
                load_images(held_out),
                held_out.source.label_set,
            )
            for training, held_out in self._datasets.splits()
        }

    def _measure(
        self,
        networks: PriorNetworks,
        reference: CaptionedImages,
        held_out: CaptionedImages,
        label_set: LabelSet,
    ) -> PriorQuality:
        """Draw samples under label maps and captions of different images, and compare.

        Args:
            reference: Real images that tell which colours words mean.
            held_out: Real images that provide the conditions.
        """
        options, segment = self._options, self._segmenter(reference, label_set)
        images, label_maps = to_float(held_out.images), held_out.label_maps.long()
        # Captions are shifted by one, so that no sample has the caption of its own label map.
        prompts = held_out.captions[1:] + held_out.captions[:1]
        samples = draw_samples(
            networks,
            prompts,
            make_control_image(label_maps, joint_palette([label_set])),
            guidance_scale=options.guidance_scale,
            num_inference_steps=options.num_inference_steps,
            seed=options.seed,
        )
        iou = class_iou(segment(samples), label_maps, label_set)
        image_iou = class_iou(segment(images), label_maps, label_set)
        real, sampled, held = (
            named_colors(pictures, maps, captions, label_set)
            for pictures, maps, captions in (
                (to_float(reference.images), reference.label_maps, reference.captions),
                (samples, label_maps, prompts),
                (images, label_maps, held_out.captions),
            )
        )
        # A part with only one known colour would always agree.
        known = {part: each for part, each in fit_colors(real).items() if len(each.means) > 1}
        return PriorQuality(
            mask_iou=fmean(iou.values()),
            image_mask_iou=fmean(image_iou.values()),
            class_iou=iou,
            color_agreement=color_agreement(sampled, known),
            image_color_agreement=color_agreement(held, known),
            reconstruction_psnr=_reconstruction_psnr(networks.vae, images),
        )

    def _segmenter(self, reference: CaptionedImages, label_set: LabelSet) -> Segmenter:
        if self._parser is None:
            return train_segmenter(reference, label_set.num_classes, seed=self._options.seed)
        parser, conversion = self._parser, find_conversion(self._label_set, label_set)

        def segment(images: Tensor) -> Tensor:
            maps = [parser.label_map(Image.fromarray(image)) for image in to_uint8(images)]
            return torch.from_numpy(conversion.apply(np.stack(maps)))

        return segment


@torch.no_grad()
def _reconstruction_psnr(
    vae: AutoencoderKL,
    images: Tensor,  # [B, 3, H, W] in [-1, 1]
) -> float:
    values = []
    for batch in images.split(max(1, MAX_PIXELS // images[0, 0].numel())):
        latents = vae.encode(batch.to(vae.device, vae.dtype)).latent_dist.mean
        output = vae.decode(latents).sample.float().cpu()
        errors = ((output.clamp(-1, 1) - batch) / 2).square().mean(dim=(1, 2, 3))
        values.append(-10 * errors.log10())
    return torch.cat(values).mean().item()


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
    reference: CaptionedImages, num_classes: int, *, seed: int, steps: int = 300
) -> Segmenter:
    """Train a small network on images and label maps."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Segmenter(num_classes)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        indices = torch.randint(len(reference.images), (_SEGMENTER_BATCH,), generator=generator)
        scores = network(to_float(reference.images[indices]))
        loss = F.cross_entropy(scores, reference.label_maps[indices].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.requires_grad_(False)
    return lambda images: torch.cat(
        [network(part).argmax(1) for part in images.split(_SEGMENTER_BATCH)]
    )


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
