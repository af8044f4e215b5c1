"""Losses of a 2D prior: autoencoder, and denoiser with text encoder and ControlNet."""

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from torch import Tensor
from torch.nn import functional as F

from mate3d.diffusion.networks import PriorNetworks
from training.prior.captions import draw_captions
from training.prior.data import PriorBatch
from training.prior.models import encode_captions
from training.prior.options import AutoencoderOptions, DiffusionOptions


def autoencoder_losses(
    vae: AutoencoderKL,
    images: Tensor,  # [B, 3, H, W] in [-1, 1]
    weights: Tensor,  # [B, 1, H, W]
    noise: Tensor,  # [B, 4, h, w]
    options: AutoencoderOptions,
) -> dict[str, Tensor]:
    """Compare images with their reconstruction: absolute error of values and of gradients, KL.

    Args:
        weights: Pixel weights, 1 on average.
        noise: Standard normal; samples the latents from the posterior.

    Returns:
        The total under `loss`, and its parts.
    """
    posterior = vae.encode(images).latent_dist
    error = vae.decode(posterior.mean + posterior.std * noise).sample.float() - images
    value_error = (weights * error.abs()).mean()
    across = (weights[..., 1:] * error.diff(dim=-1).abs()).mean()
    down = (weights[..., 1:, :] * error.diff(dim=-2).abs()).mean()
    edge_error = across + down
    divergence = posterior.kl().mean() / noise[0].numel()
    loss = value_error + options.edge_weight * edge_error + options.kl_weight * divergence
    return {"loss": loss, "l1": value_error, "edge": edge_error, "kl": divergence}


def snr_weights(
    scheduler: DDPMScheduler,
    timesteps: Tensor,  # [B] int64
    gamma: float,
) -> Tensor:  # [B]
    """Return min(SNR, gamma) divided by the target's own weight; no noise level dominates."""
    alphas = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = alphas / (1 - alphas)
    return snr.clamp(max=gamma) / (
        snr + 1 if scheduler.config.prediction_type == "v_prediction" else snr
    )


def denoising_losses(
    networks: PriorNetworks,
    scheduler: DDPMScheduler,
    batch: PriorBatch,
    options: DiffusionOptions,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Predict the noise of noised latents from caption and, for most samples, label map.

    Args:
        generator: Draws noise, timesteps and dropout, on the CPU.
    """
    mean = batch.latent_mean
    num = len(mean)

    def normal() -> Tensor:
        return torch.randn(mean.shape, generator=generator).to(mean.device)

    factor = networks.vae.config.scaling_factor
    latents = (mean + batch.latent_std * normal()) * factor
    noise = normal()
    num_timesteps = scheduler.config.num_train_timesteps
    timesteps = torch.randint(num_timesteps, (num,), generator=generator).to(mean.device)
    noisy_latents = scheduler.add_noise(latents, noise, timesteps)
    captions = draw_captions(
        batch.captions,
        dropout=options.caption_dropout,
        phrase_share=options.phrase_share,
        generator=generator,
    )
    embeds = encode_captions(networks, captions)
    # The batch is shuffled, so its tail is a random selection.
    num_controlled = num - int(round(num * options.control_dropout))
    prediction = _predict(
        networks, noisy_latents, timesteps, embeds, batch.control[:num_controlled]
    )
    target = noise
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(latents, noise, timesteps)
    errors = F.mse_loss(prediction.float(), target, reduction="none").mean(dim=(1, 2, 3))
    loss = (snr_weights(scheduler, timesteps, options.snr_gamma) * errors).mean()
    return {"loss": loss, "mse": errors.mean(), "mse_controlled": errors[:num_controlled].mean()}


def _predict(
    networks: PriorNetworks,
    noisy_latents: Tensor,  # [B, 4, h, w]
    timesteps: Tensor,  # [B]
    embeds: Tensor,  # [B, T, E]
    control: Tensor,  # [C, 3, H, W], of the first C <= B samples
) -> Tensor:  # [B, 4, h, w]
    """Denoise; samples without a label map skip the ControlNet and get no residuals."""
    num_controlled, num = len(control), len(noisy_latents)
    if num_controlled == 0:
        return networks.unet(noisy_latents, timesteps, embeds).sample
    down, mid = networks.controlnet(
        noisy_latents[:num_controlled],
        timesteps[:num_controlled],
        embeds[:num_controlled],
        controlnet_cond=control,
        return_dict=False,
    )

    def pad(residual: Tensor) -> Tensor:
        return F.pad(residual, (0, 0) * 3 + (0, num - num_controlled))

    return networks.unet(
        noisy_latents,
        timesteps,
        embeds,
        down_block_additional_residuals=[pad(residual) for residual in down],
        mid_block_additional_residual=pad(mid),
    ).sample
