"""What an edit reached and what it left alone, in numbers."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editing.distillation import add_noise
from editing.guidance.base import Guidance, PromptEmbeds
from mate3d.outputs.visualize import to_uint8
from torch_utils.memory import peak_memory_bytes

# 8-bit pictures that are equal have no finite PSNR; JSON has no infinity.
MAX_PSNR_DB = 100.0

REGION_DEFINITION = (
    "pixels whose class is an edited one in the source, the edited or (at the painted view) the "
    "painted mask, dilated by a square of dilation_pixels"
)


@dataclass(frozen=True)
class PromptScore:
    """How much better the prior explains a picture with the prompt than without.

    The prior guided the edit, so this says what the edit did to its own objective; it is no
    independent measure of agreement between picture and text.

    Args:
        before: Denoising error without prompt minus with prompt, source picture.
        after: The same for the edited picture; larger is closer to the prompt.
    """

    before: float
    after: float


@dataclass(frozen=True)
class Receipt:
    """Numbers of a finished edit; all of them from the written 8-bit pictures and masks.

    Args:
        prompt: Text that was asked for.
        edit_classes: Classes that were allowed to change.
        mask_iou: For each edited class, intersection over union of rendered and painted mask at
            the painted view, before and after; null where neither has the class.
        psnr_outside_region_db: Source against edited picture outside the region, painted view.
        psnr_outside_region_other_views_db: The same at the views of views.png.
        region: Definition, dilation and area of that region.
        color_change_in_region: Mean RGB, edited minus source, inside the region, in 0..255.
        prompt_score: See `PromptScore`; null without a prior.
        num_steps: Optimiser steps taken.
        num_steps_planned: Optimiser steps asked for; more than taken if interrupted.
        seconds: Time of the optimisation and of the whole command.
        peak_memory_mib: Largest memory of the process, or of the GPU if one was used; null
            where the system does not tell.
        config_hash: Hash of the resolved configuration without output paths.
    """

    prompt: str
    edit_classes: tuple[str, ...]
    mask_iou: dict[str, dict[str, float | None]]
    psnr_outside_region_db: float
    psnr_outside_region_other_views_db: tuple[float, ...]
    region: dict[str, Any]
    color_change_in_region: tuple[float, float, float]
    prompt_score: PromptScore | None
    num_steps: int
    num_steps_planned: int
    seconds: dict[str, float]
    peak_memory_mib: int | None
    config_hash: str


def write_receipt(path: str | Path, receipt: Receipt) -> None:
    """Write a receipt as JSON."""
    Path(path).write_text(json.dumps(dataclasses.asdict(receipt), indent=2) + "\n")


def config_hash(config: dict[str, Any]) -> str:
    """Return a short hash of plain configuration values, whatever their order."""
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mask_iou(
    label_map: Tensor,  # [1, H, W]
    painted_label_map: Tensor,  # [1, H, W]
    class_id: int,
) -> float | None:
    """Return a class's intersection over union; None where neither mask has it."""
    rendered, painted = label_map == class_id, painted_label_map == class_id
    union = (rendered | painted).sum().item()
    return (rendered & painted).sum().item() / union if union else None


def psnr_outside(
    image: Tensor,  # [1, 3, H, W] in [-1, 1]
    source_image: Tensor,  # [1, 3, H, W]
    region: Tensor,  # [1, 1, H, W] bool
) -> float:
    """Return the PSNR in dB of 8-bit pictures over the pixels outside a region."""
    difference = _levels(image) - _levels(source_image)
    outside = difference.movedim(1, -1)[~region[:, 0]]
    error = outside.square().mean().item() if outside.numel() else 0.0
    if error == 0:
        return MAX_PSNR_DB
    return min(MAX_PSNR_DB, 10 * torch.tensor(255**2 / error).log10().item())


def color_change(
    image: Tensor,  # [1, 3, H, W] in [-1, 1]
    source_image: Tensor,  # [1, 3, H, W]
    region: Tensor,  # [1, 1, H, W] bool
) -> tuple[float, float, float]:
    """Return the mean change of red, green and blue inside a region, in levels of 0..255."""
    difference = (_levels(image) - _levels(source_image)).movedim(1, -1)[region[:, 0]]
    red, green, blue = difference.mean(dim=0).tolist() if len(difference) else (0.0, 0.0, 0.0)
    return red, green, blue


@torch.no_grad()
def prompt_gain(
    guidance: Guidance,
    prompt_embeds: PromptEmbeds,
    image: Tensor,  # [1, 3, H, W] in [-1, 1]
    control_image: Tensor | None,  # [1, 3, H, W] in 0..1
    *,
    num_draws: int = 16,
    batch_size: int = 4,
) -> float:
    """Return the mean denoising error without the prompt minus that with it.

    Args:
        guidance: Frozen prior.
        prompt_embeds: Encoded prompt and negative prompt.
        image: Picture to judge.
        control_image: Its colour-coded mask, if the prior takes one.
        num_draws: Noises and timesteps, the same for every picture.
        batch_size: Draws judged at once.
    """
    latents = guidance.encode_image(image)
    shape = (num_draws, *latents.shape[1:])
    noises = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(latents)
    largest = len(guidance.alphas_cumprod) - 1
    timesteps = torch.linspace(0.1 * largest, 0.9 * largest, num_draws).long().to(latents.device)
    total = 0.0
    for noise, timestep in zip(noises.split(batch_size), timesteps.split(batch_size), strict=True):
        noisy = add_noise(latents, noise, guidance.alphas_cumprod, timestep)
        control = None if control_image is None else control_image.expand(len(noise), -1, -1, -1)
        without, with_prompt = (
            guidance.predict_noise(
                noisy,
                timestep,
                prompt_embeds,
                control,
                guidance_scale=guidance_scale,
                controlnet_conditioning_scale=1.0,
            )
            for guidance_scale in (0.0, 1.0)
        )
        errors = (without - noise).square() - (with_prompt - noise).square()
        total += errors.flatten(1).mean(dim=1).sum().item()
    return total / num_draws


def peak_memory_mib(device: torch.device) -> int | None:
    """Return the peak of GPU memory, or on the CPU of resident memory; None if unknown."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        peak = peak_memory_bytes()
    return None if peak is None else round(peak / 2**20)


def _levels(
    image: Tensor,  # [1, 3, H, W] in [-1, 1]
) -> Tensor:  # [1, 3, H, W], whole numbers 0..255
    return torch.from_numpy(to_uint8(image)).movedim(-1, 1).float()
