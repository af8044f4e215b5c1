"""How well a prior obeys: label maps by a small segmenter, colours of parts by their captions."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mate3d.errors import UserError
from mate3d.labels import LabelSet
from mate3d.procedural.cats.cat import EYE_PALETTE, FUR_PALETTE, NOSE_PALETTE
from training.prior.data import CaptionedImages, make_control_image, to_float
from training.prior.models import PriorNetworks, make_pipeline

_MIN_PART_PIXELS = 6
_MIN_EXAMPLES = 5
_COLORS = "|".join(sorted({*FUR_PALETTE, *EYE_PALETTE, *NOSE_PALETTE}))
# The word that names a class's colour; the skin only of cats with one fur colour.
_COLOR_PATTERNS = {
    "skin": re.compile(rf"(?<!and )\b({_COLORS}) (?:tabby )?cat\b(?!.* spots)"),
    "ears": re.compile(rf"\b({_COLORS}) ears\b"),
    "eyes": re.compile(rf"\b({_COLORS}) eyes\b"),
    "nose": re.compile(rf"\b({_COLORS}) nose\b"),
}


@dataclass(frozen=True)
class PriorQuality:
    """Agreement of samples with their conditions; `image_*` is the same measured on real images.

    Args:
        mask_iou: Mean over the classes of the IoU between label map and segmented sample.
        class_iou: The same for each class.
        color_agreement: For each part, how many samples have the colour that the prompt names,
            by the nearest mean colour of real images.
        reconstruction_psnr: Of the autoencoder, in dB.
    """

    mask_iou: float
    image_mask_iou: float
    class_iou: dict[str, float]
    color_agreement: dict[str, float]
    image_color_agreement: dict[str, float]
    reconstruction_psnr: float


def measure_quality(
    networks: PriorNetworks,
    data: CaptionedImages,
    *,
    num_samples: int,
    guidance_scale: float,
    num_inference_steps: int = 20,
    segmenter_steps: int = 300,
    seed: int = 0,
) -> PriorQuality:
    """Draw samples under label maps and captions of different images, and compare.

    Args:
        networks: The prior.
        data: Real images; the last `num_samples` give the conditions, the others the references.
        num_samples: Number of samples.
        guidance_scale: Of classifier-free guidance.
        num_inference_steps: Denoising steps.
        segmenter_steps: Training steps of the segmenter.
        seed: Of samples and segmenter.

    Raises:
        UserError: If there are too few images.
    """
    if not 0 < num_samples < len(data.captions):
        raise UserError(
            f"quality_samples={num_samples} must lie below the {len(data.captions)} images"
        )
    held_out = slice(len(data.captions) - num_samples, None)
    reference = slice(0, held_out.start)
    images, label_maps = to_float(data.images[held_out]), data.label_maps[held_out].long()
    # Captions move one place on, so that no sample is described by its own label map.
    prompts = data.captions[held_out]
    prompts = prompts[1:] + prompts[:1]
    control = make_control_image(label_maps, data.label_set)
    samples = _draw(networks, prompts, control, guidance_scale, num_inference_steps, seed)
    segmenter = train_segmenter(
        data.images[reference],
        data.label_maps[reference],
        data.label_set.num_classes,
        steps=segmenter_steps,
        seed=seed,
    )
    iou = class_iou(segmenter(samples).argmax(1), label_maps, data.label_set)
    image_iou = class_iou(segmenter(images).argmax(1), label_maps, data.label_set)
    colors = PartColors(data.label_set)
    colors.learn(to_float(data.images[reference]), data.label_maps[reference], data.captions)
    return PriorQuality(
        mask_iou=_mean(iou),
        image_mask_iou=_mean(image_iou),
        class_iou=iou,
        color_agreement=colors.agreement(samples, label_maps, prompts),
        image_color_agreement=colors.agreement(images, label_maps, data.captions[held_out]),
        reconstruction_psnr=_reconstruction_psnr(networks, images),
    )


@torch.no_grad()
def _draw(
    networks: PriorNetworks,
    prompts: Sequence[str],
    control: Tensor,  # [B, 3, H, W] in 0..1
    guidance_scale: float,
    num_inference_steps: int,
    seed: int,
) -> Tensor:  # [B, 3, H, W] in [-1, 1]
    images = make_pipeline(networks)(
        list(prompts),
        image=control.to(networks.unet.device),
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
    ).images
    return images.float().cpu() * 2 - 1


@torch.no_grad()
def _reconstruction_psnr(
    networks: PriorNetworks,
    images: Tensor,  # [B, 3, H, W] in [-1, 1]
) -> float:
    vae = networks.vae
    output = vae.decode(vae.encode(images.to(vae.device)).latent_dist.mean).sample.cpu()
    errors = ((output.clamp(-1, 1) - images) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * errors.log10()).mean())


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


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
    """Return the IoU, over all images together, of each class that occurs in the target."""
    values = {}
    for class_id, name in enumerate(label_set.class_names):
        ours, theirs = prediction == class_id, target == class_id
        if theirs.any():
            values[name] = float((ours & theirs).sum() / (ours | theirs).sum())
    return values


class PartColors:
    """The mean colour of each part under each colour word, learned from captioned images."""

    def __init__(self, label_set: LabelSet):
        self._patterns = {
            label_set.class_id(name): (name, pattern)
            for name, pattern in _COLOR_PATTERNS.items()
            if name in label_set.class_names
        }
        self._colors: dict[str, dict[str, Tensor]] = {}

    def learn(
        self,
        images: Tensor,  # [B, 3, H, W]
        label_maps: Tensor,  # [B, H, W] integer
        captions: Sequence[str],  # B or more
    ) -> None:
        """Average the colour of every part over the images whose captions name it."""
        found: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        for name, word, color in self._named_colors(images, label_maps, captions):
            found[name][word].append(color)
        for name, words in found.items():
            self._colors[name] = {
                word: torch.stack(colors).mean(0)
                for word, colors in words.items()
                if len(colors) >= _MIN_EXAMPLES
            }

    def agreement(
        self,
        images: Tensor,  # [B, 3, H, W]
        label_maps: Tensor,  # [B, H, W] integer
        captions: Sequence[str],  # B
    ) -> dict[str, float]:
        """Return for each part how often the nearest learned colour is the caption's word."""
        hits: dict[str, list[bool]] = defaultdict(list)
        for name, word, color in self._named_colors(images, label_maps, captions):
            colors = self._colors.get(name, {})
            if word in colors:
                nearest = min(colors, key=lambda other: float((colors[other] - color).norm()))
                hits[name].append(nearest == word)
        return {name: sum(values) / len(values) for name, values in hits.items()}

    def _named_colors(self, images: Tensor, label_maps: Tensor, captions: Sequence[str]):
        """Yield (part, colour word, mean colour [3]) wherever a caption names a visible part."""
        for image, label_map, caption in zip(images, label_maps, captions, strict=False):
            for class_id, (name, pattern) in self._patterns.items():
                match, region = pattern.search(caption), label_map == class_id
                if match and int(region.sum()) >= _MIN_PART_PIXELS:
                    yield name, match[1], image[:, region].mean(dim=1)
