"""Whether the networks of a 2D prior are complete, of a known kind, and fit together."""

import json
from collections.abc import Collection

import torch
from torch import nn

from mate3d.diffusion.networks import PriorNetworks
from mate3d.errors import UserError

_PREDICTION_TYPES = ("epsilon", "v_prediction")
# Settings that a ControlNet has from its base.
_SHARED = ("cross_attention_dim", "in_channels", "block_out_channels", "layers_per_block")


def check_tensors(network: nn.Module, missing: Collection[str], what: str) -> None:
    """Refuse a network with tensors that its file does not hold, or that are not finite.

    Args:
        missing: Tensors that the library did not find in the file, and left random.

    Raises:
        UserError: Names such a tensor.
    """
    tensors = network.state_dict()
    if missing:
        library = type(network).__module__.partition(".")[0]
        raise UserError(
            f"{what} lacks {len(missing)} of {len(tensors)} tensors, such as {min(missing)}; it is"
            f" incomplete, or for another version of {library}"
        )
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{what} has numbers that are not finite in {name} ({tensor.dtype})")


def check_vae(vae: nn.Module, own: nn.Module, what: str) -> None:
    """Refuse an autoencoder whose latents cannot be those of the prior's own.

    Raises:
        UserError: Names the number that differs.
    """
    names = ["latent_channels"]
    # Tiny autoencoders give latents that are scaled already.
    if type(vae) is type(own):
        names.append("scaling_factor")
    for name in names:
        one, other = vae.config[name], own.config[name]
        if one != other:
            raise UserError(f"{what} has {name} {one}, the prior's own {other}")


def check_fit(networks: PriorNetworks, prior: str, controlnet: str) -> None:
    """Refuse networks that do not fit together.

    Args:
        prior: The option of the prior and its value, for messages.
        controlnet: The same for the ControlNet.

    Raises:
        UserError: Names the option and the number that differs.
    """
    unet, channels = networks.unet.config, networks.vae.config.latent_channels
    text_width = networks.text_encoder.config.hidden_size
    predicts, size = networks.scheduler.config.prediction_type, unet.sample_size
    problems = {
        f"{prior} is a Stable Diffusion XL; use 1.x or 2.x": unet.addition_embed_type is not None,
        f"{prior}: its UNet reads {unet.in_channels} channels instead of the {channels} of latents,"
        " as one for inpainting does; use a text-to-image model": unet.in_channels != channels,
        f"{prior}: its UNet reads text of width {unet.cross_attention_dim}, but its text encoder"
        f" gives {text_width}": unet.cross_attention_dim != text_width,
        f"{prior} predicts '{predicts}'; use a model that predicts"
        f" {' or '.join(_PREDICTION_TYPES)}": predicts not in _PREDICTION_TYPES,
        f"{prior}: its UNet was trained on latents of size {size}; only square ones work"
        " (sample_size in its config.json)": not isinstance(size, int)
        and len({*(size or ())}) != 1,
    }
    if networks.controlnet is not None:
        control = networks.controlnet.config
        problems[
            f"{controlnet} reads pictures of {control.conditioning_channels} channels; use a"
            " ControlNet on coloured label maps, which have 3"
        ] = control.conditioning_channels != 3
        for name in _SHARED:
            problems[
                f"{controlnet} was made for another base than the prior: its {name} is"
                f" {control[name]}, the prior's {unet[name]}"
            ] = json.dumps(control[name]) != json.dumps(unet[name])
    for problem, is_there in problems.items():
        if is_there:
            raise UserError(problem)
