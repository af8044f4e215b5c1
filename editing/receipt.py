"""Measurements of a finished edit: changes inside and outside the region."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from editing.guidance.base import Guidance, PromptEmbeds
from editing.objectives import add_noise
from torch_utils.memory import peak_memory_bytes

# Noises and timesteps of the prompt score, and how many of them a denoiser call takes.
_NUM_DRAWS, _DRAWS_PER_CALL = 16, 4
REGION_DEFINITION = (
    "pixels of an edited class in the source mask, the edited mask or (painted view only) the "
    "painted mask, widened by dilation_pixels in each direction"
)


@dataclass(frozen=True)
class PromptScore:
    """How much better the prior explains an image with the prompt than without it.

    The same prior guided the edit, so this is not an independent measure of how well image and
    text agree.

    Args:
        before: Denoising error without the prompt minus the error with it, for the source image.
        after: The same for the edited image; higher is closer to the prompt.
    """

    before: float
    after: float


@dataclass(frozen=True)
class Receipt:
    """Measurements of a finished edit, taken from the written 8-bit images and masks.

    Args:
        prompt: The text prompt.
        edit_classes: Classes that were allowed to change.
        mask_iou: For each edited class, intersection over union of rendered and painted mask at
            the painted view, before and after; null where neither mask has the class.
        psnr_outside_region_db: PSNR of the edited against the source image outside the region,
            at the painted view.
        psnr_outside_region_other_views_db: The same at the views of views.png.
        region: Definition, dilation and area of that region.
        color_change_in_region: Mean RGB change inside the region, edited minus source, in levels
            of 0..255.
        prompt_score: See `PromptScore`; null without a prior.
        num_steps: Optimizer steps taken.
        num_steps_planned: Optimizer steps requested; more than taken if the edit was stopped.
        seconds: Duration of the optimisation and of the whole command.
        peak_memory_mib: Peak memory of the process, or of the GPU if one was used; null if the
            system does not report it.
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


def config_hash(config: dict[str, Any]) -> str:
    """Return a short hash of plain configuration values that does not depend on their order."""
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def color_change(
    levels: Tensor,  # [1, 3, H, W] in 0..255
    source_levels: Tensor,  # [1, 3, H, W]
    region: Tensor,  # [1, 1, H, W] bool
) -> tuple[float, float, float]:
    """Return the mean change of red, green and blue inside a region."""
    difference = (levels - source_levels).movedim(1, -1)[region[:, 0]]
    return tuple(difference.mean(dim=0).tolist()) if len(difference) else (0.0, 0.0, 0.0)


@torch.no_grad()
def prompt_gain(
    guidance: Guidance,
    prompt_embeds: PromptEmbeds,
    image: Tensor,  # [1, 3, H, W] in [-1, 1]
    control_image: Tensor | None,  # [1, 3, H, W] in 0..1
) -> float:
    """Return the mean denoising error without the prompt minus the error with it.

    Args:
        control_image: Its colour-coded mask, if the prior takes one.
    """
    latents = guidance.encode_image(image)
    # The same draws for every image.
    shape = (_NUM_DRAWS, *latents.shape[1:])
    noises = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(latents)
    largest = len(guidance.alphas_cumprod) - 1
    timesteps = torch.linspace(0.1 * largest, 0.9 * largest, _NUM_DRAWS).long().to(latents.device)
    total = 0.0
    draws = zip(noises.split(_DRAWS_PER_CALL), timesteps.split(_DRAWS_PER_CALL), strict=True)
    for noise, timestep in draws:
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
    return total / _NUM_DRAWS


def peak_memory_mib(device: torch.device) -> int | None:
    """Return the peak of GPU memory, or on the CPU of resident memory; None if unknown."""
    on_gpu = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else peak_memory_bytes()
    return None if peak is None else round(peak / 2**20)
