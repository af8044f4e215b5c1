"""The parts of a 2D prior."""

from dataclasses import dataclass

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

NETWORK_NAMES = ("vae", "text_encoder", "unet", "controlnet")


@dataclass
class PriorNetworks:
    """The parts of Stable Diffusion with a ControlNet; `scheduler` holds the noise schedule."""

    vae: AutoencoderKL | AutoencoderTiny
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    controlnet: ControlNetModel | None
    scheduler: DDIMScheduler

    def modules(self) -> dict[str, nn.Module]:
        """Return the networks that are there by folder name."""
        parts = {name: getattr(self, name) for name in NETWORK_NAMES}
        return {name: part for name, part in parts.items() if part is not None}

    def to(self, device: torch.device) -> "PriorNetworks":
        """Move the networks in place."""
        for module in self.modules().values():
            module.to(device)
        return self
