"""Load a Stable Diffusion with a ControlNet: from folders, single files or the hub."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from mate3d.checkpoints.assets import where_to_find
from mate3d.diffusion.checks import check_fit, check_tensors, check_vae
from mate3d.diffusion.networks import NETWORK_NAMES, PriorNetworks
from mate3d.diffusion.places import check_file, choose_controlnet, choose_weights, find_model
from mate3d.errors import UserError

_KINDS = {
    "vae": (AutoencoderKL, AutoencoderTiny),
    "text_encoder": (CLIPTextModel,),
    "unet": (UNet2DConditionModel,),
    "controlnet": (ControlNetModel,),
}
_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)


def load_prior(
    prior: str,
    controlnet: str | None = None,
    *,
    subfolder: str | None = None,
    vae: str | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    option: str = "guidance.prior",
) -> PriorNetworks:
    """Load and check a Stable Diffusion 1.x or 2.x and a ControlNet on coloured label maps.

    Each part is the name of an included one, a folder in diffusers' format, a single file with its
    configuration beside it or on the hub, or a hub id.

    Args:
        controlnet: None takes the prior's own, if any.
        subfolder: Folder of the ControlNet in its place; None if there is only one.
        vae: Autoencoder in place of the prior's own, possibly a tiny one.
        variant: Variant of the files, such as "fp16", where there is one; None takes
            half-precision files for a half-precision `dtype`, and plain ones otherwise.
        dtype: Precision of the networks; files of another one are converted while they are read.
        option: Option that gives the prior, for messages; the others are of `guidance`.

    Raises:
        UserError: If a part is missing, damaged or incomplete, or the parts do not fit together.
    """
    what, what_vae = f"{option}={prior}", f"guidance.vae={vae}"
    what_control, loader = f"guidance.controlnet={controlnet}", _Loader(variant, dtype)
    # Everything is found before large files are read.
    path = find_model(prior, option, variant)
    if controlnet is not None:
        choose = partial(choose_controlnet, location=controlnet, subfolder=subfolder)
        control_path = find_model(controlnet, "guidance.controlnet", variant, choose)
    if vae is not None:
        vae_path = find_model(vae, "guidance.vae", variant)
    with _quiet():
        networks = loader.prior(path, what, with_controlnet=controlnet is None)
        if controlnet is not None:
            networks.controlnet = loader.network("controlnet", control_path, what_control)
        if vae is not None:
            own, networks.vae = networks.vae, loader.network("vae", vae_path, what_vae)
            check_vae(networks.vae, own, what_vae)
    check_fit(networks, what, what if controlnet is None else what_control)
    _fill_in(networks)
    return networks.to(torch.device(device))


@dataclass(frozen=True)
class _Loader:
    variant: str | None
    dtype: torch.dtype

    def prior(self, path: Path, what: str, *, with_controlnet: bool) -> PriorNetworks:
        """Load a Stable Diffusion, also its own ControlNet if it is wanted and there."""
        if path.is_file():
            pipeline = self._from_file(StableDiffusionPipeline, path, what, safety_checker=None)
            names = ("vae", "text_encoder", "unet", "tokenizer")
            parts = {name: getattr(pipeline, name) for name in names}
            scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
            networks = PriorNetworks(**parts, controlnet=None, scheduler=scheduler)
            for network in networks.modules().values():
                check_tensors(network, (), f"{what}: {path}")
            return networks
        if not (path / "model_index.json").is_file():
            advice = where_to_find(path, "*/model_index.json")
            raise UserError(f"{what} is not in diffusers' format (no model_index.json){advice}")
        index = _read_json(path / "model_index.json", what)
        if "text_encoder_2" in index or not index.keys() >= {"text_encoder", "unet", "vae"}:
            name = index.get("_class_name", "another model")
            raise UserError(f"{what} is a {name}; use a Stable Diffusion 1.x or 2.x (not XL)")
        if self.variant and not [*path.glob(f"*/*.{self.variant}*")]:
            raise UserError(f"{what} has no files of guidance.variant={self.variant}")
        with _loading_errors(what, "its tokenizer or scheduler"):
            tokenizer = CLIPTokenizer.from_pretrained(path / "tokenizer", local_files_only=True)
            scheduler = DDIMScheduler.from_pretrained(path / "scheduler", local_files_only=True)
        names = list(NETWORK_NAMES)
        if not (with_controlnet and (path / "controlnet" / "config.json").is_file()):
            names.remove("controlnet")
        parts = {"controlnet": None} | {
            name: self.network(name, path / name, what) for name in names
        }
        return PriorNetworks(**parts, tokenizer=tokenizer, scheduler=scheduler)

    def network(self, part: str, path: Path, what: str) -> nn.Module:
        """Load one network from its folder or a single file."""
        if path.is_file():
            network = self._from_file(_KINDS[part][0], path, what)
            check_tensors(network, (), f"{what}: {path}")
            return network
        names, prefer_half = [each.name for each in path.glob("*")], self.dtype != torch.float32
        chosen = choose_weights(names, self.variant, prefer_half=prefer_half, what=what)
        if not chosen:
            raise UserError(f"{what}: no weights in {path}")
        for match in chosen:
            check_file(path / match.string, what)
        # Only configurations of diffusers name the class.
        name = _read_json(path / "config.json", what).get("_class_name", CLIPTextModel.__name__)
        kinds = {each.__name__: each for each in _KINDS[part]}
        if name not in kinds:
            raise UserError(f"{what}: {path} has the class {name}; use {' or '.join(kinds)}")
        with _loading_errors(what, path):
            network, info = kinds[name].from_pretrained(
                path,
                variant=chosen[0]["variant"],
                use_safetensors=chosen[0]["format"] == "safetensors",
                local_files_only=True,
                output_loading_info=True,
                # The libraries have different names for the same argument.
                **{"dtype" if part == "text_encoder" else "torch_dtype": self.dtype},
            )
        check_tensors(network, info["missing_keys"], f"{what}: {path / chosen[0].string}")
        return network

    def _from_file(self, kind: type, path: Path, what: str, **options: Any) -> Any:
        check_file(path, what)
        name = "model_index.json" if kind is StableDiffusionPipeline else "config.json"
        config, part = str(path.parent), str(path)
        if not (path.parent / name).is_file():
            # diffusers asks the hub.
            config, part = None, f"{path} (without its {name} beside it)"
        options |= {"config": config, "torch_dtype": self.dtype}
        with _loading_errors(what, part):
            return kind.from_single_file(str(path), **options)


def _fill_in(networks: PriorNetworks) -> None:
    """Replace what configurations leave out or write in another way."""
    size = networks.unet.config.sample_size
    networks.unet.register_to_config(sample_size=size if isinstance(size, int) else size[0])
    # Tokenizers without a length of their own have a huge number.
    longest = networks.text_encoder.config.max_position_embeddings
    networks.tokenizer.model_max_length = min(networks.tokenizer.model_max_length, longest)


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{what}: {path} is not a readable JSON file: {error}") from None


@contextmanager
def _loading_errors(what: str, part: object) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        if isinstance(error, NotImplementedError):
            # diffusers moves networks of single files, also if tensors have no values.
            reason = "it is incomplete: some tensors are missing"
        raise UserError(f"{what}: {part} cannot be loaded: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep diffusers and transformers from writing to the console while they load."""
    libraries = (diffusers_logging, transformers_logging)
    before = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.disable_progress_bar()
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, verbosity in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
