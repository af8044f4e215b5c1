"""Load a Stable Diffusion with a ControlNet: from folders, single files or the hub."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from mate3d.checkpoints.assets import where_to_find
from mate3d.diffusion.checks import check_fit, check_kind, check_tensors, check_vae
from mate3d.diffusion.networks import PriorNetworks
from mate3d.diffusion.places import Place, choose_weights, find_controlnet, find_place
from mate3d.errors import UserError

_KINDS = {
    "vae": (AutoencoderKL, AutoencoderTiny),
    "text_encoder": (CLIPTextModel,),
    "unet": (UNet2DConditionModel,),
    "controlnet": (ControlNetModel,),
}
_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)


@dataclass(frozen=True)
class PriorOptionNames:
    """The names of the options from which the arguments of `load_prior` come, for messages."""

    prior: str = "prior"
    controlnet: str = "controlnet"
    subfolder: str = "subfolder"
    vae: str = "vae"
    variant: str = "variant"


def load_prior(
    prior: str,
    controlnet: str | None = None,
    *,
    subfolder: str | None = None,
    vae: str | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    names: PriorOptionNames = PriorOptionNames(),
) -> PriorNetworks:
    """Load and check a Stable Diffusion 1.x or 2.x and a ControlNet on coloured label maps.

    Each part is the name of an included one, a folder in diffusers' format, a single file with its
    configuration beside it or on the hub, or a hub id.

    Args:
        controlnet: None takes the prior's own, if any.
        subfolder: Folder of the ControlNet in its place; None if there is only one.
        vae: Autoencoder in place of the prior's own, possibly a tiny one.
        variant: Variant of the files, such as "fp16", where there is one; None takes half-precision
            files for a half-precision `dtype`, and plain ones otherwise, if it can choose.
        dtype: Precision of the networks; files of another one are converted while they are read.

    Raises:
        UserError: If a part is missing, damaged or incomplete, or the parts do not fit together.
    """
    loader = _Loader(variant, dtype, names)
    # Everything is found before large files are read or downloaded.
    place = find_place(prior, names.prior, "model_index.json", "*/model_index.json")
    if controlnet is not None:
        other = find_controlnet(controlnet, subfolder, names.controlnet, names.subfolder)
    with _quiet():
        networks = loader.prior(place)
        if vae is not None:
            own, networks.vae = networks.vae, loader.vae(vae)
            check_vae(networks.vae, own, f"{names.vae}={vae}")
        if controlnet is not None:
            networks.controlnet = loader.network(*other, "controlnet")
    what = f"{names.prior}={prior}"
    check_fit(networks, what, what if controlnet is None else f"{names.controlnet}={controlnet}")
    _fill_in(networks)
    return networks.to(torch.device(device))


@dataclass(frozen=True)
class _Loader:
    variant: str | None
    dtype: torch.dtype
    names: PriorOptionNames

    def prior(self, place: Place) -> PriorNetworks:
        """Load a Stable Diffusion with its own ControlNet, if there is one."""
        if place.single_file is not None:
            return self._whole_prior(place)
        if "model_index.json" not in place.files:
            advice = where_to_find(place.folder, "*/model_index.json") if place.folder else ""
            raise UserError(
                f"{place.what} is not a model in diffusers' format (no model_index.json){advice}"
            )
        if self.variant and not any(f".{self.variant}" in name for name in place.files):
            raise UserError(f"{place.what} has no files of {self.names.variant}={self.variant}")
        index = _read_json(place.fetch(["model_index.json"]) / "model_index.json", place.what)
        check_kind(index, place.what)
        small = place.fetch([*place.inside("tokenizer"), *place.inside("scheduler")])
        with _loading_errors(place.what, "tokenizer or scheduler"):
            tokenizer = CLIPTokenizer.from_pretrained(small / "tokenizer", local_files_only=True)
            scheduler = DDIMScheduler.from_pretrained(small / "scheduler", local_files_only=True)
        has_own = "controlnet/config.json" in place.files
        return PriorNetworks(
            vae=self.network(place, "vae", "vae"),
            text_encoder=self.network(place, "text_encoder", "text_encoder"),
            tokenizer=tokenizer,
            unet=self.network(place, "unet", "unet"),
            controlnet=self.network(place, "controlnet", "controlnet") if has_own else None,
            scheduler=scheduler,
        )

    def vae(self, location: str) -> AutoencoderKL | AutoencoderTiny:
        """Load an autoencoder, alone or out of a whole Stable Diffusion."""
        place = find_place(location, self.names.vae, "vae/config.json", "*/vae/config.json")
        is_alone = "config.json" in place.files
        return self.network(place, "" if is_alone else "vae", "vae")

    def network(self, place: Place, folder: str, part: str) -> nn.Module:
        """Load one of the networks from its folder in a place, or from a single file."""
        if place.single_file is not None:
            return self._from_single_file(place, _KINDS[part][0])
        files, arguments = choose_weights(
            place,
            folder,
            self.variant,
            prefer_half=self.dtype != torch.float32,
            option=self.names.variant,
        )
        configs = [name for name in place.inside(folder) if name.endswith(".json")]
        root = place.fetch([*configs, *files])
        path = root / folder
        config = _read_json(path / "config.json", place.what)
        # Only configurations of diffusers name the class.
        name = config.get("_class_name", CLIPTextModel.__name__)
        kinds = {each.__name__: each for each in _KINDS[part]}
        kind = kinds.get(name)
        if kind is None:
            raise UserError(f"{place.what}: {path} is a {name}; use {' or '.join(kinds)}")
        # The libraries have different names for the same argument.
        arguments["dtype" if kind is CLIPTextModel else "torch_dtype"] = self.dtype
        with _loading_errors(place.what, path):
            network, info = kind.from_pretrained(
                path, **arguments, local_files_only=True, output_loading_info=True
            )
        check_tensors(network, info["missing_keys"], f"{place.what}: {root / files[0]}")
        return network

    def _whole_prior(self, place: Place) -> PriorNetworks:
        with _loading_errors(place.what, place.single_file):
            pipeline = StableDiffusionPipeline.from_single_file(
                str(place.single_file),
                config=_config_beside(place, "model_index.json"),
                torch_dtype=self.dtype,
                safety_checker=None,
            )
        networks = PriorNetworks(
            vae=pipeline.vae,
            text_encoder=pipeline.text_encoder,
            tokenizer=pipeline.tokenizer,
            unet=pipeline.unet,
            controlnet=None,
            scheduler=DDIMScheduler.from_config(pipeline.scheduler.config),
        )
        for network in networks.modules().values():
            check_tensors(network, (), place.what)
        return networks

    def _from_single_file(self, place: Place, kind: type[nn.Module]) -> nn.Module:
        with _loading_errors(place.what, place.single_file):
            network = kind.from_single_file(
                str(place.single_file),
                config=_config_beside(place, "config.json"),
                torch_dtype=self.dtype,
            )
        check_tensors(network, (), place.what)
        return network


def _fill_in(networks: PriorNetworks) -> None:
    """Replace what configurations leave out or write in another way."""
    size = networks.unet.config.sample_size
    networks.unet.register_to_config(sample_size=size if isinstance(size, int) else size[0])
    # Tokenizers without a length of their own have a huge number.
    longest = networks.text_encoder.config.max_position_embeddings
    networks.tokenizer.model_max_length = min(networks.tokenizer.model_max_length, longest)


def _config_beside(place: Place, name: str) -> str | None:
    """Return the folder of a single file if its configuration is there; else the hub is asked."""
    return str(place.folder) if (place.folder / name).is_file() else None


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
        if _is_about_hub(error):
            reason = (
                "its configuration (model_index.json and its folders, or config.json) is not beside"
                " it, and the hub does not answer"
            )
        raise UserError(f"{what}: {part} cannot be loaded: {reason}") from error


def _is_about_hub(error: BaseException) -> bool:
    causes = [error]
    while causes[-1].__cause__ or causes[-1].__context__:
        causes.append(causes[-1].__cause__ or causes[-1].__context__)
    return any(isinstance(cause, HTTPError | OfflineModeIsEnabled) for cause in causes)


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
