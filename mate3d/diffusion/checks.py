"""Whether the parts of a 2D prior are complete, of a known kind, and fit together."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from mate3d.diffusion.networks import PriorNetworks
from mate3d.errors import UserError

PREDICTION_TYPES = ("epsilon", "v_prediction")


def check_kind(index: Mapping[str, Any], what: str) -> None:
    """Refuse other models than Stable Diffusion 1.x and 2.x by their model_index.json.

    Raises:
        UserError: Names the class of the model.
    """
    parts = {name for name, value in index.items() if isinstance(value, list) and any(value)}
    needed = {"vae", "text_encoder", "tokenizer", "unet", "scheduler"}
    if "text_encoder_2" in parts or not needed <= parts:
        name = index.get("_class_name", "model of an unknown class")
        raise UserError(f"{what} is a {name}; use a Stable Diffusion 1.x or 2.x (not XL)")


def check_tensors(network: nn.Module, missing: Collection[str], what: str) -> None:
    """Refuse a network with tensors that its file does not hold, or that are not finite.

    Args:
        missing: Names of tensors that the library that read the file did not find in it. It leaves
            them random; other loaders leave them without values (on the meta device).

    Raises:
        UserError: Names such a tensor.
    """
    tensors = network.state_dict()
    missing = {*missing, *(name for name, tensor in tensors.items() if tensor.is_meta)}
    if missing:
        library = type(network).__module__.partition(".")[0]
        raise UserError(
            f"{what} lacks {len(missing)} of {len(tensors)} tensors, such as {min(missing)}; it is"
            f" incomplete, or for another version of {library}"
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{what} has numbers that are not finite in {name} ({tensor.dtype})")


def check_vae(vae: nn.Module, own: nn.Module, what: str) -> None:
    """Refuse an autoencoder whose latents cannot be those of the prior's own.

    Raises:
        UserError: Names the number that differs.
    """
    facts = [
        {
            "latent channels": each.config.latent_channels,
            "levels": len(each.config.block_out_channels),
            "scaling factor": each.config.scaling_factor,
        }
        for each in (vae, own)
    ]
    if type(vae) is not type(own):
        # Tiny autoencoders give scaled latents.
        del facts[0]["scaling factor"]
    for name, value in facts[0].items():
        if value != facts[1][name]:
            raise UserError(f"{what} has {name} {value}, the prior's own {facts[1][name]}")


def check_fit(networks: PriorNetworks, prior: str, controlnet: str) -> None:
    """Refuse networks that do not fit together.

    Args:
        prior: The option of the prior and its value, for messages.
        controlnet: The same for the ControlNet.

    Raises:
        UserError: Names the option and the number that differs.
    """
    unet, scheduler = networks.unet.config, networks.scheduler.config
    channels = networks.vae.config.latent_channels
    text_encoder = networks.text_encoder.config
    if unet.addition_embed_type is not None:
        raise UserError(f"{prior} is a Stable Diffusion XL; use 1.x or 2.x")
    if unet.in_channels != channels:
        raise UserError(
            f"{prior}: its UNet reads {unet.in_channels} channels instead of the {channels} of"
            " latents, as one for inpainting does; use a text-to-image model"
        )
    if unet.cross_attention_dim != text_encoder.hidden_size:
        raise UserError(
            f"{prior}: its UNet reads text of width {unet.cross_attention_dim}, but its text"
            f" encoder gives {text_encoder.hidden_size}"
        )
    if len(networks.tokenizer) > text_encoder.vocab_size:
        raise UserError(
            f"{prior}: its tokenizer knows {len(networks.tokenizer)} tokens, but its text encoder"
            f" {text_encoder.vocab_size}"
        )
    if scheduler.prediction_type not in PREDICTION_TYPES:
        raise UserError(
            f"{prior} predicts '{scheduler.prediction_type}'; use a model that predicts"
            f" {' or '.join(PREDICTION_TYPES)}"
        )
    sizes = {size} if isinstance(size := unet.sample_size, int) else {*(size or ())}
    if len(sizes) != 1:
        raise UserError(
            f"{prior}: its UNet was trained on latents of size {size}; only square ones work"
            " (sample_size in its config.json)"
        )
    if networks.controlnet is not None:
        _check_controlnet(networks, controlnet)


def _check_controlnet(networks: PriorNetworks, what: str) -> None:
    unet, control = networks.unet.config, networks.controlnet.config
    if control.conditioning_channels != 3:
        raise UserError(
            f"{what} reads pictures of {control.conditioning_channels} channels; use a ControlNet"
            " on coloured label maps, which have 3"
        )
    same = ("cross_attention_dim", "in_channels", "block_out_channels", "layers_per_block")
    for name in same:
        # Tuples become lists in files.
        values = [
            tuple(value) if isinstance(value := config[name], list) else value
            for config in (unet, control)
        ]
        if values[0] != values[1]:
            raise UserError(
                f"{what} was made for another base than the prior: its {name} is {values[1]}, the"
                f" prior's {values[0]}"
            )
    levels = len(control.conditioning_embedding_out_channels)
    if levels != len(networks.vae.config.block_out_channels):
        raise UserError(
            f"{what} reduces pictures {2 ** (levels - 1)} times, the autoencoder"
            f" {2 ** (len(networks.vae.config.block_out_channels) - 1)} times"
        )
