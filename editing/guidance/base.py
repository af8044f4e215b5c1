"""Guidance protocol: from noisy latents, timestep and conditions to guided noise."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class PromptEmbeds:
    """Encoded prompt and negative prompt.

    Args:
        prompt: Text encoder output of the prompt, [1, T, D].
        negative_prompt: The same of the negative (often empty) prompt, [1, T, D].
    """

    prompt: Tensor
    negative_prompt: Tensor


class Guidance(Protocol):
    """A frozen latent diffusion model; it keeps no state of the edit."""

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the model was trained on."""

    @property
    def alphas_cumprod(self) -> Tensor:  # [T]
        """Cumulative signal power of each training timestep, decreasing from 1 to 0."""

    def encode_prompt(self, prompt: str, negative_prompt: str = "") -> PromptEmbeds:
        """Encode texts once for the whole edit."""

    def encode_image(
        self,
        image: Tensor,  # [B, 3, H, W] in [-1, 1], any size
    ) -> Tensor:  # [B, C, h, w]
        """Resize to `image_size` and return scaled latents, differentiably."""

    def decode_latents(
        self,
        latents: Tensor,  # [B, C, h, w]
    ) -> Tensor:  # [B, 3, image_size, image_size] in [-1, 1]
        """Return the images of scaled latents; no gradient flows through it."""

    def predict_noise(
        self,
        noisy_latents: Tensor,  # [B, C, h, w]
        timestep: Tensor,  # [B] int64
        prompt_embeds: PromptEmbeds,
        control_image: Tensor | None,  # [B, 3, H, W] in [0, 1], or None for text only
        *,
        guidance_scale: float,
        controlnet_conditioning_scale: float,
    ) -> Tensor:  # [B, C, h, w]
        """Return the guided noise estimate (epsilon); no gradient flows through it."""
