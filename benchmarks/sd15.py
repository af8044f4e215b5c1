"""Stable Diffusion 1.5 with a ControlNet in its exact sizes, with random weights.

Time and memory hardly depend on the weights, so figures need no download.
"""

from contextlib import contextmanager

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from editing.guidance.controlnet import ControlNetGuidance
from mate3d.checkpoints.assets import folder_or_asset
from mate3d.diffusion.networks import PriorNetworks
from training.prior.models import make_scheduler

IMAGE_SIZE = 512
NUM_TOKENS = 77
TEXT_WIDTH = 768
# Of the published files.
NUM_PARAMETERS = {
    "vae": 83_653_863,
    "text_encoder": 123_060_480,
    "unet": 859_520_964,
    "controlnet": 361_279_120,
}
_CHANNELS = (320, 640, 1280, 1280)
_VAE_CHANNELS = (128, 256, 512, 512)


def make_networks(
    dtype: torch.dtype = torch.float32,
    *,
    controlnet_dtype: torch.dtype | None = None,
    device: str = "cpu",
    tiny_vae: bool = False,
    seed: int = 0,
) -> PriorNetworks:
    """Return random networks; their tokenizer is the demo prior's, padded to 77 tokens.

    Args:
        controlnet_dtype: That of the ControlNet, if it is not the other networks'.
        device: `meta` gives networks without values.
        tiny_vae: An AutoencoderTiny of the published size instead of the whole VAE.
    """
    torch.manual_seed(seed)
    with torch.device(device), _default_dtype(dtype):
        vae = AutoencoderTiny() if tiny_vae else _make_vae()
        unet = UNet2DConditionModel(
            sample_size=IMAGE_SIZE // 8,
            block_out_channels=_CHANNELS,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=8,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=TEXT_WIDTH,
                intermediate_size=4 * TEXT_WIDTH,
                num_hidden_layers=12,
                num_attention_heads=12,
                max_position_embeddings=NUM_TOKENS,
                projection_dim=TEXT_WIDTH,
            )
        )
    with torch.device(device), _default_dtype(controlnet_dtype or dtype):
        controlnet = ControlNetModel(
            block_out_channels=_CHANNELS, cross_attention_dim=TEXT_WIDTH, attention_head_dim=8
        )
    tokenizer = CLIPTokenizer.from_pretrained(
        folder_or_asset("demo_prior") / "tokenizer", model_max_length=NUM_TOKENS
    )
    networks = PriorNetworks(vae, text_encoder, tokenizer, unet, controlnet, make_scheduler())
    for network in networks.modules().values():
        network.eval().requires_grad_(False)
    return networks


def make_guidance(
    dtype: torch.dtype, *, tiny_vae: bool = False, checkpointing: bool = False
) -> ControlNetGuidance:
    """Return the networks as the guidance of an edit."""
    return ControlNetGuidance(make_networks(dtype, tiny_vae=tiny_vae), checkpointing=checkpointing)


def _make_vae() -> AutoencoderKL:
    num_levels = len(_VAE_CHANNELS)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * num_levels,
        up_block_types=("UpDecoderBlock2D",) * num_levels,
        block_out_channels=_VAE_CHANNELS,
        layers_per_block=2,
        sample_size=IMAGE_SIZE,
        scaling_factor=0.18215,
    )


@contextmanager
def _default_dtype(dtype: torch.dtype):
    """Create parameters in this type, without a larger copy before."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
