"""Time the first step of training a ControlNet for Stable Diffusion 1.5, in its exact sizes.

    python benchmarks/bench_prior.py output=benchmarks/results/prior_sd15.json

A step is that of `train_prior prior=controlnet` from cached encodings: frozen base in `precision`,
ControlNet and its average in float32, AdamW. Weights are random. Words:

    batch_size=1          images per part of a batch
    accumulation=1        parts of a batch
    checkpointing=true    of UNet and ControlNet
    precision=bf16        or fp32
    output=               also write the JSON here

The last line is one JSON object: seconds and floating-point operations of the forward passes and of
the rest (backward passes and optimizer), the most bytes of live tensors, and peak memory of the
process. `count_memory.py` counts the same for a GPU.
"""

import sys
from collections.abc import Callable
from typing import Any

import sd15
import torch
from common import describe_machine, peak_memory_gib, read_words, report
from diffusers import DDPMScheduler
from parts import Parts
from torch import Tensor

from mate3d.diffusion.networks import PriorNetworks
from torch_utils.batch_random import BatchRandom
from torch_utils.ops.execution import DTYPES
from training.prior.options import DiffusionOptions
from training.prior.steps import PriorBatch, denoising_losses
from training.supervised_stage import Stage

GIB = 2**30
DEFAULTS = {
    "batch_size": "1",
    "accumulation": "1",
    "checkpointing": "true",
    "precision": "bf16",
    "output": "",
}
Losses = Callable[[int], dict[str, Tensor]]


def make_training(
    networks: PriorNetworks,
    batch_size: int,
    *,
    accumulation: int,
    checkpointing: bool,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
) -> tuple[Stage, Losses]:
    """Return a stage that trains the ControlNet, and what computes the losses of a part.

    Args:
        networks: The ControlNet in float32, the others in the precision of training.
        batch_size: Images per part of a batch.
    """
    unet, controlnet = networks.unet, networks.controlnet
    if checkpointing:
        unet.enable_gradient_checkpointing()
        controlnet.enable_gradient_checkpointing()
    options = DiffusionOptions(
        batch_size=batch_size * accumulation, accumulation=accumulation, learning_rate=1e-5
    )
    stage = Stage(
        "diffusion",
        {"controlnet": controlnet.train().requires_grad_()},
        options,
        warmup=lambda *_: 1.0,
        ema_decay=options.ema_decay,
        precision={dtype: name for name, dtype in DTYPES.items()}[unet.dtype],
        accumulation=accumulation,
        optimizer=optimizer,
    )
    scheduler = DDPMScheduler.from_config(networks.scheduler.config)
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    pixels = side * 2 ** (len(networks.vae.config.block_out_channels) - 1)

    def compute_losses(part: int) -> dict[str, Tensor]:
        latents = torch.zeros(batch_size, unet.config.in_channels, side, side)
        batch = PriorBatch(
            latents,
            torch.ones_like(latents),
            embeds=torch.zeros(batch_size, networks.tokenizer.model_max_length, width),
            control=torch.zeros(batch_size, 3, pixels, pixels),
        )
        random = BatchRandom((0, part), range(batch_size))
        return denoising_losses(networks, scheduler, batch, random, snr_gamma=options.snr_gamma)

    return stage, compute_losses


def measure_step(words: dict[str, str]) -> dict[str, Any]:
    """Take the first step and return what it took."""
    networks = sd15.make_networks(DTYPES[words["precision"]], controlnet_dtype=torch.float32)
    # Encodings are cached.
    networks.text_encoder = None
    stage, compute_losses = make_training(
        networks,
        int(words["batch_size"]),
        accumulation=int(words["accumulation"]),
        checkpointing=words["checkpointing"] == "true",
    )
    parts = Parts(torch.device("cpu"), with_operations=True)
    for module in (networks.unet, stage.networks, stage.averages):
        parts.memory.add(module.parameters(), "before")

    def timed_losses(part: int) -> dict[str, Tensor]:
        with parts.part("forward"):
            return compute_losses(part)

    with parts.counting("backward_and_optimizer"):
        losses = stage.advance(timed_losses)
    return parts.summary() | {"loss": float(losses["loss"].mean())}


def main() -> None:
    """Measure one step."""
    words = read_words(DEFAULTS)
    document = {
        "command": " ".join(["python", "benchmarks/bench_prior.py", *sys.argv[1:]]),
        **{name: words[name] for name in DEFAULTS if name != "output"},
        **measure_step(words),
        "peak_rss_gib": round(peak_memory_gib(), 2),
        **describe_machine(torch.device("cpu")),
    }
    report(document, words["output"])


if __name__ == "__main__":
    main()
