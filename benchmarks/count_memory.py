"""Count what trainings and edits take on a GPU, from the exact sizes, without one.

    python benchmarks/count_memory.py what=generator output=benchmarks/results/gpu_photos.json
    python benchmarks/count_memory.py what=training output=benchmarks/results/memory_prior.json
    python benchmarks/count_memory.py what=edit output=benchmarks/results/memory_edit.json

The code is that of training and of edits, but the networks' tensors have no values (fake tensors).
What is alive is added up at each operation (`parts.LiveMemory`): weights, averages, gradients,
moments of Adam, and what is saved for the backward pass. Attention does not keep its whole matrix,
as on a GPU. What operations allocate and free inside, rounding by the allocator and the CUDA
context come on top: 1 to 2 GiB.

what=generator takes an iteration of `train` and also its time, by operations and bandwidth (see
gpu_work.py). Words:

    experiments=photos_128,photos_256
    part_sizes=0                  images that a GPU trains at once; 0 for the experiment's own
    num_gpus=1
    gpus=RTX 4090,A100,H200
    options=                      more options of train, separated by spaces

what=training takes the second step of `train_prior prior=controlnet` (see bench_prior.py), with
the sizes of Stable Diffusion 1.5. Words:

    batch_sizes=1,2,4,8           images per part of a batch
    accumulations=1,2             parts of a batch
    checkpointing=true,false      of UNet and ControlNet
    optimizers=adamw,adamw_8bit

what=edit takes the first step of an edit (see bench_edit.py), without a prior, and adds what the
prior takes meanwhile. The generator has values, and works in pieces as large as on a GPU; that
takes minutes for each combination of the first three words:

    edits=cdgt,denoised
    neural_resolutions=64,128     side of raw renders
    regions=classes,everywhere
    precisions=fp16,fp32          of the prior
    vaes=whole,checkpointed,tiny  the encoder keeps everything for its gradient, or computes it
                                  again, or is an AutoencoderTiny
"""

import itertools
import multiprocessing
import shlex
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import bench_edit
import sd15
import torch
from bench_prior import make_training
from common import read_words, report
from parts import LiveMemory, digits
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from editing.guidance.base import PromptEmbeds
from editing.guidance.controlnet import ControlNetGuidance
from mate3d.diffusion.networks import PriorNetworks
from mate3d.network import layers, sdf_decoder, synthesis
from mate3d.rendering import fast_rendering
from torch_utils.ops import resample, triplane_sample
from torch_utils.ops.execution import DTYPES

GIB = 2**30
DEFAULTS = {
    "what": "training",
    "batch_sizes": "1,2,4,8",
    "accumulations": "1,2",
    "checkpointing": "true,false",
    "optimizers": "adamw,adamw_8bit",
    "edits": "cdgt,denoised",
    "neural_resolutions": "64,128",
    "regions": "classes,everywhere",
    "precisions": "fp16,fp32",
    "vaes": "whole,checkpointed,tiny",
    "experiments": "photos_128,photos_256",
    "part_sizes": "0",
    "num_gpus": "1",
    "gpus": "RTX 4090,A100,H200",
    "options": "",
    "output": "",
}


class EightBitAdam(torch.optim.Optimizer):
    """Holds as much as AdamW8bit of bitsandbytes: two bytes per weight, and scales of blocks."""

    _BLOCK = 256

    def __init__(self, parameters: Any, **options: float):
        super().__init__(parameters, options)

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """Make the state, if there is none yet."""
        for weight in self.param_groups[0]["params"]:
            if not self.state[weight]:
                moments = torch.zeros(2, weight.numel(), dtype=torch.uint8)
                scales = torch.zeros(2, -(-weight.numel() // self._BLOCK))
                self.state[weight] = {"moments": moments, "scales": scales}


OPTIMIZERS = {
    # On a GPU, all weights are updated at once.
    "adamw": partial(torch.optim.AdamW, foreach=True),
    "adamw_8bit": EightBitAdam,
}


def count_training(
    make_networks: Callable[[], PriorNetworks], batch_size: int, **options: Any
) -> dict[str, float]:
    """Return the GiB of a step: at most, and before it; `make_training` has the options."""
    memory = LiveMemory()
    with fake_tensors(), cuda_autocast():
        networks = make_networks()
        with memory:
            stage, compute_losses = make_training(networks, batch_size, **options)
            modules = networks.unet, stage.networks, stage.averages
            memory.add((weight for module in modules for weight in module.parameters()), "weights")
            # The first step makes the moments.
            stage.advance(compute_losses)
            held = memory.live()
            memory.restart()
            stage.advance(compute_losses)
    return {"peak_gib": memory.peak / GIB, "held_gib": held / GIB}


def in_process(count: Callable[..., dict[str, float]], *args: Any, **options: Any) -> Any:
    """Call a function in a process of its own, whose patches and threads end with it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(count, *args, **options).result()


def count_sd15_training(
    batch_size: int, optimizer: str, options: dict[str, Any]
) -> dict[str, float]:
    """Count a training of Stable Diffusion 1.5's ControlNet."""
    make_networks = partial(sd15.make_networks, torch.bfloat16, controlnet_dtype=torch.float32)
    return count_training(make_networks, batch_size, optimizer=OPTIMIZERS[optimizer], **options)


def count_prior(make_guidance: Callable[[], ControlNetGuidance], edit: str) -> dict[str, float]:
    """Return the GiB of a prior in a step of an edit: its weights, and the most above these."""
    memory = LiveMemory()
    with fake_tensors():
        guidance = make_guidance()
        is_distilled, side = edit != "denoised", guidance.image_size
        # cdgt encodes image and normals.
        image = torch.zeros(2 if edit == "cdgt" else 1, 3, side, side, requires_grad=is_distilled)
        width = guidance.unet.config.cross_attention_dim
        num_tokens = guidance.tokenizer.model_max_length
        embeds = torch.zeros(1, num_tokens, width, dtype=guidance.unet.dtype)
        # The text encoder is on the device only while it encodes.
        modules = guidance.vae, guidance.unet, guidance.controlnet
        memory.add((weight for module in modules for weight in module.parameters()), "weights")
        held = memory.live()
        with memory:
            latents = guidance.encode_image(image)
            noise = guidance.predict_noise(
                latents[:1].detach(),
                torch.zeros(1, dtype=torch.int64),
                PromptEmbeds(embeds, embeds),
                image[:1].detach(),
                guidance_scale=10.0,
                controlnet_conditioning_scale=1.0,
            )
            if is_distilled:
                torch.autograd.backward(latents, torch.zeros_like(latents))
            else:
                guidance.decode_latents(noise)
    return {"weights_gib": held / GIB, "work_gib": (memory.peak - held) / GIB}


class NoPrior(nn.Module):
    """A guidance that takes next to nothing; the gradient of its latents reaches the image."""

    palette, image_size = None, sd15.IMAGE_SIZE

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("alphas_cumprod", sd15.make_scheduler().alphas_cumprod)

    def encode_prompt(self, *_: Any) -> PromptEmbeds:
        """See `Guidance`."""
        return PromptEmbeds(torch.zeros(1), torch.zeros(1))

    def encode_image(self, image: Tensor) -> Tensor:
        """See `Guidance`."""
        return F.adaptive_avg_pool2d(image[:, [0, 1, 2, 0]], self.image_size // 8)

    def predict_noise(self, noisy_latents: Tensor, *_: Any, **options: Any) -> Tensor:
        """See `Guidance`."""
        return torch.zeros_like(noisy_latents)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """See `Guidance`."""
        return F.interpolate(latents[:, :3], self.image_size)


def count_generator(words: dict[str, str]) -> dict[str, float]:
    """Return the GiB of a step of an edit without a prior: at most, and while a prior works."""
    with gpu_pieces():
        measured = bench_edit.measure_step(bench_edit.DEFAULTS | words, NoPrior())
    parts = measured["parts"]
    meanwhile = max(parts[name]["peak_gib"] for name in bench_edit.PRIOR_PARTS if name in parts)
    return {"peak_gib": measured["peak_gib"], "meanwhile_gib": meanwhile}


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Let new tensors have no values."""
    patches = (
        # Weights without values cannot be moved; they are where they should be.
        mock.patch.object(nn.Module, "_apply", lambda self, *_: self),
        # Copies of networks belong to the same mode; a copy of the mode would free memory twice.
        mock.patch.object(FakeTensorMode, "__deepcopy__", lambda self, _: self, create=True),
    )
    with ExitStack() as stack:
        for patch in (*patches, FakeTensorMode(allow_non_fake_inputs=True)):
            stack.enter_context(patch)
        yield


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """Let autocast compute normalisation in float32, as it does on CUDA but not on a CPU."""

    def in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def cast(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return function(x.float() if torch.is_autocast_enabled("cpu") else x, *args, **kwargs)

        return cast

    with ExitStack() as stack:
        for name in ("group_norm", "layer_norm"):
            stack.enter_context(mock.patch.object(F, name, in_float32(getattr(F, name))))
        yield


@contextmanager
def gpu_pieces() -> Iterator[None]:
    """Let the generator work in pieces as large as on a GPU, and scale activations as there."""
    pieces = sdf_decoder._CHUNK_BYTES
    patches = (
        mock.patch.dict(pieces, cpu=pieces["cuda"]),
        mock.patch.object(layers, "_scale_weights", layers._scale_activations),
        mock.patch.object(synthesis, "works_in_bands", lambda _: False),
        mock.patch.object(fast_rendering, "_TILE_RAYS", sys.maxsize),
        mock.patch.object(triplane_sample, "CHUNK_POINTS", sys.maxsize),
        mock.patch.object(resample, "suits_winograd", lambda *_: False),
    )
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def training_table(words: dict[str, str]) -> list[dict[str, Any]]:
    """Count each combination of the words."""
    names = "checkpointing", "optimizers", "accumulations", "batch_sizes"
    rows = []
    for flag, optimizer, parts, size in itertools.product(*(words[n].split(",") for n in names)):
        options = {"accumulation": int(parts), "checkpointing": flag == "true"}
        counted = in_process(count_sd15_training, int(size), optimizer, options)
        chosen = {
            "checkpointing": flag == "true",
            "optimizer": optimizer,
            "accumulation": int(parts),
            "batch_size": int(size),
        }
        rows.append(chosen | _rounded(counted))
        print(rows[-1], flush=True)
    return rows


def edit_table(words: dict[str, str]) -> list[dict[str, Any]]:
    """Count each combination of the words."""
    names = "edits", "neural_resolutions", "regions"
    rows = []
    for edit, side, region in itertools.product(*(words[name].split(",") for name in names)):
        chosen = {"edits": edit, "neural_resolution": side, "region": region}
        generator = _rounded(count_generator({"preset": "sd15"} | chosen))
        for precision, vae in itertools.product(
            *(words[n].split(",") for n in ("precisions", "vaes"))
        ):
            make_guidance = partial(
                sd15.make_guidance,
                DTYPES[precision],
                tiny_vae=vae == "tiny",
                checkpointing=vae == "checkpointed",
            )
            prior = _rounded(count_prior(make_guidance, edit))
            peak = max(generator["peak_gib"], generator["meanwhile_gib"] + prior["work_gib"])
            row = {"edit": edit, "neural_resolution": int(side), "region": region}
            row |= {"precision": precision, "vae": vae, "generator": generator, "prior": prior}
            rows.append(row | _rounded({"peak_gib": prior["weights_gib"] + peak}))
            print(rows[-1], flush=True)
    return rows


def generator_table(words: dict[str, str]) -> list[dict[str, Any]]:
    """Count each experiment and size of parts."""
    from fake_training import count_run  # which uses this module

    rows = []
    for experiment, size in itertools.product(
        words["experiments"].split(","), words["part_sizes"].split(",")
    ):
        options = [f"experiment={experiment}", *words["options"].split()]
        gpus = words["gpus"].split(",")
        rows.append(in_process(count_run, options, int(size), int(words["num_gpus"]), gpus))
        print(rows[-1], flush=True)
    return rows


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: digits(value) for name, value in values.items()}


def main() -> None:
    """Count a table."""
    words = read_words(DEFAULTS)
    tables = {"generator": generator_table, "training": training_table, "edit": edit_table}
    if words["what"] not in tables:
        sys.exit(f"error: what={words['what']}; use generator, training or edit")
    document = {
        "command": shlex.join(["python", "benchmarks/count_memory.py", *sys.argv[1:]]),
        "computed": True,
        "torch_version": torch.__version__,
        "rows": tables[words["what"]](words),
    }
    report(document, words["output"])


if __name__ == "__main__":
    main()
