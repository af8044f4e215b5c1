"""Losses of a 2D prior: autoencoder, and denoiser with text encoder and ControlNet."""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from torch import Tensor
from torch.nn import functional as F

from training.prior.data import PriorBatch
from training.prior.models import PriorNetworks, encode_captions


@dataclass(frozen=True)
class StageOptions:
    """How long and how one stage trains.

    Args:
        steps: Number of optimizer steps.
        batch_size: Images of a step.
        learning_rate: Peak of the schedule: linear warm-up, then half a cosine down to 0.
        max_minutes: Ends the stage earlier, with the learning rate falling accordingly; the
            result then depends on the machine's speed. None sets no limit.
        warmup_steps: Steps until the peak.
        weight_decay: Of AdamW.
        ema_decay: Share of the averaged weights that a step keeps (less in the first steps).
    """

    steps: int
    batch_size: int
    learning_rate: float
    max_minutes: float | None = None
    warmup_steps: int = 100
    weight_decay: float = 0.01
    ema_decay: float = 0.999


@dataclass(frozen=True)
class AutoencoderOptions(StageOptions):
    """Options of the autoencoder's stage.

    Args:
        kl_weight: Of the divergence from the standard normal, mean per latent.
        edge_weight: Of the error of image gradients, which keeps edges crisp.
        part_balance: Pixels weigh their class's frequency to the power of minus this, so that small
            parts such as eyes are not neglected; 0 weighs all pixels equally.
        num_normal_maps: Rendered normal maps of procedural heads mixed into the training images,
            because distillation encodes normal maps too.
    """

    kl_weight: float = 3e-4
    edge_weight: float = 1.0
    part_balance: float = 0.5
    num_normal_maps: int = 0


@dataclass(frozen=True)
class DiffusionOptions(StageOptions):
    """Options of the denoiser's stage.

    Args:
        caption_dropout: Share of captions replaced by the empty one (classifier-free guidance).
        control_dropout: Share of samples without label map; 0 where the denoiser is frozen.
        snr_gamma: Cap of the signal-to-noise ratio in the loss weight (Hang et al. 2023).
    """

    caption_dropout: float = 0.1
    control_dropout: float = 0.25
    snr_gamma: float = 5.0


def autoencoder_losses(
    vae: AutoencoderKL,
    images: Tensor,  # [B, 3, H, W] in [-1, 1]
    weights: Tensor,  # [B, 1, H, W]
    noise: Tensor,  # [B, 4, h, w]
    options: AutoencoderOptions,
) -> dict[str, Tensor]:
    """Compare images with their reconstruction: absolute error of values and of gradients, KL.

    Args:
        vae: The network to train.
        images: Its input and target.
        weights: Pixel weights, 1 on average.
        noise: Standard normal; samples the latents from the posterior.
        options: Loss weights.

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
    capped = snr.clamp(max=gamma)
    return capped / (snr + 1 if scheduler.config.prediction_type == "v_prediction" else snr)


def denoising_losses(
    networks: PriorNetworks,
    scheduler: DDPMScheduler,
    batch: PriorBatch,
    options: DiffusionOptions,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Predict the noise of noised latents from caption and, for most samples, label map.

    Args:
        networks: Trained and frozen networks.
        scheduler: Adds the noise.
        batch: Encoded images with their conditions.
        options: Dropout rates and loss weight.
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
    drops = (torch.rand(num, generator=generator) < options.caption_dropout).tolist()
    captions = ["" if drop else text for drop, text in zip(drops, batch.captions, strict=True)]
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
    """Denoise; samples without label map skip the ControlNet and get no residuals."""
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
