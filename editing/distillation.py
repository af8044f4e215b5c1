"""Score distillation: timestep sampling, noising, blending image and normals, the SDS loss.

Score distillation sampling (SDS) is DreamFusion's (Poole et al. 2022). Blending SDS and
conditional SDS are MaTe3D's (docs/method.md).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from editing.guidance.base import Guidance, PromptEmbeds
from mate3d.options import NonNegativeFloat, OptionError, Options, Range, Share

Blend = Literal["blended", "image", "normals"]
Weighting = Literal["variance", "uniform"]


@dataclass(frozen=True)
class DistillationOptions(Options):
    """Score distillation from the diffusion prior.

    Args:
        guidance_scale: Classifier-free guidance scale.
        controlnet_conditioning_scale: ControlNet conditioning scale, the weight of the mask
            condition.
        timestep_range: Minimum and maximum timestep, as fractions of the training steps.
        final_max_timestep: Fraction to which the maximum timestep falls linearly by the last step;
            set it to the maximum of timestep_range for no annealing.
        weighting: Weight w(t) of a timestep; variance is 1 - alphas_cumprod, uniform is 1.
        blend: Encodings to distill. blended mixes image and normals with a share drawn from U(0, 1)
            at each step; image and normals use one of them.
    """

    guidance_scale: NonNegativeFloat = 7.5
    controlnet_conditioning_scale: NonNegativeFloat = 1.0
    timestep_range: tuple[Share, Share] = (0.02, 0.98)
    final_max_timestep: Share = 0.5
    weighting: Weighting = "variance"
    blend: Blend = "blended"

    def __post_init__(self):
        super().__post_init__()
        smallest, largest = self.timestep_range
        if smallest >= largest:
            advice = "use [minimum,maximum] with the minimum below the maximum"
            raise OptionError("timestep_range", self.timestep_range, advice)
        if not smallest < self.final_max_timestep <= largest:
            advice = f"use a number {Range(smallest, largest, with_low=False)}"
            raise OptionError("final_max_timestep", self.final_max_timestep, advice)


@dataclass(frozen=True)
class SDSResult:
    """Result of one guided denoiser call.

    Args:
        loss: Scalar whose gradient with respect to the latents is w(t) (noise_pred - noise) / B.
        residual: w(t) (noise_pred - noise), detached, [B, C, h, w].
        timestep: [B] int64.
        image_share: Share `a` of the image in the blend, 0..1.
    """

    loss: Tensor
    residual: Tensor
    timestep: Tensor
    image_share: float


def sample_timestep(
    batch_size: int,
    num_timesteps: int,
    timestep_range: tuple[float, float],
    *,
    generator: torch.Generator,
) -> Tensor:  # [B] int64
    """Draw timesteps uniformly from a range given as fractions of the training steps."""
    smallest = round(timestep_range[0] * num_timesteps)
    largest = max(round(timestep_range[1] * num_timesteps), smallest + 1)
    return torch.randint(smallest, min(largest, num_timesteps), (batch_size,), generator=generator)


def annealed_timestep_range(options: DistillationOptions, progress: float) -> tuple[float, float]:
    """Return the range at `progress` (0..1): the maximum falls linearly to its final value."""
    smallest, largest = options.timestep_range
    return smallest, largest + (options.final_max_timestep - largest) * progress


def timestep_weight(
    alphas_cumprod: Tensor,  # [T]
    timestep: Tensor,  # [B]
    weighting: Weighting,
) -> Tensor:  # [B, 1, 1, 1]
    """Return w(t) of the SDS gradient."""
    alpha = alphas_cumprod[timestep].view(-1, 1, 1, 1)
    return 1 - alpha if weighting == "variance" else torch.ones_like(alpha)


def add_noise(
    latents: Tensor,  # [B, C, h, w]
    noise: Tensor,  # [B, C, h, w]
    alphas_cumprod: Tensor,  # [T]
    timestep: Tensor,  # [B]
) -> Tensor:  # [B, C, h, w]
    """Return sqrt(a) latents + sqrt(1 - a) noise, the forward diffusion at `timestep`."""
    alpha = alphas_cumprod[timestep].view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def sds_loss(
    latents: Tensor,  # [B, C, h, w]
    residual: Tensor,  # [B, C, h, w]
) -> Tensor:  # scalar
    """Return a squared distance to a detached target, whose gradient is `residual / B`."""
    target = (latents - residual).detach()
    return 0.5 * (latents - target).square().sum() / len(latents)


def blend_latents(
    image_latents: Tensor | None,  # [B, C, h, w]
    normal_latents: Tensor | None,  # [B, C, h, w]
    image_share: float,
) -> Tensor:  # [B, C, h, w]
    """Mix the latents of image and normals; a missing one has share 0.

    Adding noise is affine and both get the same noise and timestep, so mixing clean latents equals
    a z_t(image) + (1 - a) z_t(normals). The gradient reaches them in shares a and 1 - a.
    """
    if normal_latents is None:
        return image_latents
    if image_latents is None:
        return normal_latents
    return image_share * image_latents + (1 - image_share) * normal_latents


def distill(
    guidance: Guidance,
    prompt_embeds: PromptEmbeds,
    *,
    image: Tensor | None,  # [B, 3, H, W] in [-1, 1]
    normal_image: Tensor | None,  # [B, 3, h, w] in [-1, 1]
    control_image: Tensor | None,  # [B, 3, H, W] in [0, 1]
    options: DistillationOptions,
    progress: float,
    generator: torch.Generator,
) -> SDSResult:
    """Compute the SDS loss of one denoiser call on image and normals.

    Args:
        image: Rendered image; None to distil the normals only.
        normal_image: Rendered normals; None to distil the image only.
        control_image: Colour-coded label map of the same view; None for plain SDS.
        options: Scales, timesteps and blend.
        progress: Completed fraction of the edit, 0..1.
        generator: CPU random generator for noise, timestep and share.
    """
    image_share = 1.0 if options.blend == "image" else 0.0
    if options.blend == "blended":
        image_share = torch.rand((), generator=generator).item()
    latents = blend_latents(
        guidance.encode_image(image) if image is not None else None,
        guidance.encode_image(normal_image) if normal_image is not None else None,
        image_share,
    )
    alphas = guidance.alphas_cumprod
    timestep = sample_timestep(
        len(latents), len(alphas), annealed_timestep_range(options, progress), generator=generator
    ).to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    noise_pred = guidance.predict_noise(
        add_noise(latents.detach(), noise, alphas, timestep),
        timestep,
        prompt_embeds,
        control_image,
        guidance_scale=options.guidance_scale,
        controlnet_conditioning_scale=options.controlnet_conditioning_scale,
    )
    weight = timestep_weight(alphas, timestep, options.weighting)
    residual = (weight * (noise_pred - noise)).nan_to_num(0.0)
    return SDSResult(sds_loss(latents, residual), residual, timestep, image_share)
