"""Losses of a 2D prior: autoencoder, and denoiser with text encoder and ControlNet."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from torch import Tensor
from torch.nn import functional as F

from mate3d.diffusion.networks import PriorNetworks
from torch_utils.batch_random import BatchRandom
from torch_utils.ops.execution import own_precision
from training.prior.options import AutoencoderOptions


@dataclass
class PriorBatch:
    """Inputs of the denoiser, of one part of a batch."""

    latent_mean: Tensor  # [B, 4, h, w], of the encoder's posterior, not scaled
    latent_std: Tensor  # [B, 4, h, w]
    embeds: Tensor  # [B, T, E]
    control: Tensor  # [C, 3, H, W] in 0..1, of the first C <= B samples


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
    random: BatchRandom,
    *,
    snr_gamma: float,
) -> dict[str, Tensor]:
    """Predict the noise of noised latents from caption and, for most samples, label map.

    Args:
        random: Draws noise and timesteps for each sample, on the CPU.
        snr_gamma: See `snr_weights`.

    Returns:
        The total under `loss`, and the errors of the samples.
    """
    mean = batch.latent_mean
    device, num_controlled = mean.device, len(batch.control)
    factor = networks.vae.config.scaling_factor
    latents = (mean + batch.latent_std * random.randn(mean.shape).to(device)) * factor
    noise = random.randn(mean.shape).to(device)
    draws = random.rand((len(mean),)) * scheduler.config.num_train_timesteps
    timesteps = draws.long().to(device)
    noisy_latents = scheduler.add_noise(latents, noise, timesteps)
    prediction = _predict(networks, noisy_latents, timesteps, batch)
    target = noise
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(latents, noise, timesteps)
    errors = F.mse_loss(prediction.float(), target, reduction="none").mean(dim=(1, 2, 3))
    losses = {
        "loss": (snr_weights(scheduler, timesteps, snr_gamma) * errors).mean(),
        "mse": errors,
    }
    if num_controlled > 0:
        losses["mse_controlled"] = errors[:num_controlled]
    return losses


def _predict(
    networks: PriorNetworks,
    noisy_latents: Tensor,  # [B, 4, h, w]
    timesteps: Tensor,  # [B]
    batch: PriorBatch,
) -> Tensor:  # [B, 4, h, w]
    """Denoise; samples without a label map skip the ControlNet and get no residuals."""
    num_controlled, num = len(batch.control), len(noisy_latents)
    down = mid = None
    if num_controlled > 0:
        down, mid = networks.controlnet(
            noisy_latents[:num_controlled],
            timesteps[:num_controlled],
            batch.embeds[:num_controlled],
            controlnet_cond=batch.control,
            return_dict=False,
        )
        down, mid = [_pad(each, num) for each in down], _pad(mid, num)
    dtype = networks.unet.dtype
    # A frozen denoiser in half precision needs no autocast, which would keep float32 activations.
    with nullcontext() if dtype == torch.float32 else own_precision(noisy_latents):
        return networks.unet(
            noisy_latents.to(dtype),
            timesteps,
            batch.embeds.to(dtype),
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample


def _pad(
    residual: Tensor,  # [C, ...]
    num: int,
) -> Tensor:  # [num, ...]
    return F.pad(residual, (0, 0) * (residual.ndim - 1) + (0, num - len(residual)))
