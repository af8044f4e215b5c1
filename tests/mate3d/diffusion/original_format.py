"""Write the demo prior as one file with the names of Stable Diffusion's original code."""

import re
from collections.abc import Iterable

from safetensors.torch import load_file
from torch import Tensor

from mate3d.checkpoints.assets import ASSETS

DEMO = ASSETS / "demo_prior"
_RESNET = (
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("time_emb_proj.", "emb_layers.1."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("conv_shortcut.", "skip_connection."),
)
_ENDS = (
    ("time_embedding.linear_1.", "time_embed.0."),
    ("time_embedding.linear_2.", "time_embed.2."),
    ("conv_in.", "input_blocks.0.0."),
    ("conv_norm_out.", "out.0."),
    ("conv_out.", "out.2."),
    ("mid_block.resnets.0.", "middle_block.0."),
    ("mid_block.attentions.0.", "middle_block.1."),
    ("mid_block.resnets.1.", "middle_block.2."),
)


def original_tensors() -> dict[str, Tensor]:
    """Return the demo prior's UNet, text encoder and autoencoder by their original names."""
    return {
        **{f"model.diffusion_model.{_unet_name(n)}": t for n, t in _read("unet").items()},
        **{f"first_stage_model.{_vae_name(n)}": t for n, t in _read("vae").items()},
        **{
            f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}": tensor
            for name, tensor in _read("text_encoder").items()
        },
    }


def _read(part: str) -> dict[str, Tensor]:
    [path] = (DEMO / part).glob("*.safetensors")
    return load_file(path)


def _unet_name(name: str) -> str:
    # The demo has one layer per block: an input block and a downsampler at each level.
    if match := re.match(r"down_blocks\.(\d)\.(\w+)\.0\.", name):
        level, kind = int(match[1]), match[2]
        place = {"resnets": "1.0.", "attentions": "1.1.", "downsamplers": "2.0.op."}[kind]
        block, rest = int(place[0]) + 2 * level, place[2:]
        name = f"input_blocks.{block}.{rest}" + name[match.end() :].removeprefix("conv.")
        return _renamed(name, _RESNET) if kind == "resnets" else name
    if match := re.match(r"up_blocks\.(\d)\.(\w+)\.(\d)\.", name):
        level, kind = int(match[1]), match[2]
        block = 2 * level + (1 if kind == "upsamplers" else int(match[3]))
        has_attention = level < 2
        place = {"resnets": 0, "attentions": 1, "upsamplers": 1 + has_attention}[kind]
        name = f"output_blocks.{block}.{place}." + name[match.end() :]
        return _renamed(name, _RESNET) if kind == "resnets" else name
    is_resnet = name.startswith("mid_block.resnets")
    return _renamed(name, (*_ENDS, *(_RESNET if is_resnet else ())))


def _vae_name(name: str) -> str:
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    name = re.sub(
        r"up_blocks\.(\d)\.resnets\.", lambda match: f"up.{2 - int(match[1])}.block.", name
    )
    name = re.sub(
        r"up_blocks\.(\d)\.upsamplers\.0\.", lambda match: f"up.{2 - int(match[1])}.upsample.", name
    )
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    return _renamed(name, (("conv_shortcut.", "nin_shortcut."), ("conv_norm_out.", "norm_out.")))


def _renamed(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for new, old in pairs:
        name = name.replace(new, old)
    return name
