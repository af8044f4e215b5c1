"""Measure the peak memory of one whole training iteration by batch size and precision.

    python benchmarks/bench_memory.py experiment=demo_cat batch_sizes=1,2,4,8

The iteration has all steps: generator, density smoothness, both discriminators, R1 of both, each
with its Adam update, from random weights and pictures. A batch size is that of a part: what a
process trains at once, train.batch_size / (processes * train.accumulation). Every variant runs in a
process of its own:

    fp32     train.precision=fp32
    bf16     train.precision=bf16
    fp16     train.precision=fp16

Words it takes:

    experiment=demo_cat      an experiment of train; its sizes, samples, losses and schedules
    neural_resolution=       side of raw renders; empty for the experiment's
    batch_sizes=1,2,4,8      images at once
    variants=fp32,bf16       any of the above
    options=                 more options of train, separated by spaces
    device=cpu               cpu or cuda
    output=                  also write the JSON here, e.g. benchmarks/results/memory_demo_cat.json

On a CPU, memory is the most that the process held (resident), less what it held before the networks
were built; on CUDA, the most that tensors took, and what PyTorch's allocator reserved for them.
Before the iteration a process holds weights, their average, Adam's two moments and gradients:
`held_gib`, to compare with `state_gib`, which is counted. The last line is one JSON object; `fits`
are peak = fixed_gib + image_gib * batch size by least squares, with the largest error of it.
"""

import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import Stopwatch, describe_machine, peak_memory_gib, read_words, report
from torch import nn

from mate3d.cameras import make_camera
from mate3d.labels import get_label_set, one_hot_mask
from scripts._compose import read_options
from torch_utils.heap import keep_freed_memory
from torch_utils.ops.execution import DTYPES
from training.build_state import build_state
from training.iteration import IterationInputs, adversarial_iteration
from training.optimization.precision import TrainingPrecision
from training.optimization.schedules import schedule_values
from training.state import TrainingState
from training.step_inputs import BatchParts, RealBatch

GIB = 2**30
SEED = 0
DEFAULTS = {
    "experiment": "demo_cat",
    "neural_resolution": "",
    "batch_sizes": "1,2,4,8",
    "variants": "fp32,bf16",
    "options": "",
    "device": "cpu",
    "output": "",
}


@dataclass(frozen=True)
class Case:
    """One variant at one batch size."""

    words: tuple[str, ...]
    precision: str
    batch_size: int
    device: str


def measure(case: Case) -> dict[str, float]:
    """Train one iteration; return memory in GiB and seconds."""
    device = torch.device(case.device)
    if device.type == "cpu":
        keep_freed_memory()
    options = read_options("train", case.words)
    generator_config, settings = options.generator_config, options.settings
    loop = replace(
        settings.loop, batch_size=case.batch_size, accumulation=1, precision=case.precision
    )
    settings = replace(settings, loop=loop)
    cameras = torch.cat([make_camera(0.3 - 0.1 * index, 0.1) for index in range(8)]).to(device)
    num_classes = get_label_set(generator_config.label_set).num_classes
    random = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)
    load_libraries(device)
    before = _held_gib(device)
    state = build_state(
        generator_config,
        options.model.discriminator,
        settings,
        cameras,
        device,
    )
    num_bytes = fill_optimizers(state)
    held = _held_gib(device) - before
    batch, side = case.batch_size, generator_config.resolution
    image = torch.rand(batch, 3, side, side, generator=random) * 2 - 1
    ids = torch.randint(num_classes, (batch, side, side), generator=random)
    inputs = IterationInputs(
        real=RealBatch(
            image.to(device),
            one_hot_mask(ids.to(device), num_classes),
            cameras[torch.arange(batch) % len(cameras)],
        ),
        cameras=cameras,
        schedule=schedule_values(settings.schedule, 0),
        precision=TrainingPrecision(case.precision, device),
        parts=BatchParts(batch),
    )
    watch = Stopwatch(device)
    with watch:
        adversarial_iteration(state, inputs, settings)
    result = {
        "peak_gib": _peak_gib(device) - before,
        "held_gib": held,
        "state_gib": num_bytes / GIB,
        "seconds": watch.seconds,
        "processor_seconds": watch.processor_seconds,
    }
    if device.type == "cuda":
        result["reserved_gib"] = torch.cuda.max_memory_reserved(device) / GIB
    return result


def load_libraries(device: torch.device) -> None:
    """Do what loads code on its first use, of which no network is the reason."""
    network = nn.Conv2d(3, 8, 3, device=device)
    network(torch.zeros(1, 3, 8, 8, device=device)).sum().backward()
    torch.optim.Adam(network.parameters()).step()


def fill_optimizers(state: TrainingState) -> int:
    """Make gradients and Adam's moments, all zero, as after the first iteration.

    Returns:
        Bytes of weights, their average, moments and gradients.
    """
    for network in state.modules().values():
        network.requires_grad_(False)
    for optimizer in state.optimizers.values():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    trained = [_num_bytes(getattr(state.networks, name)) for name in state.optimizers]
    return 4 * sum(trained) + _num_bytes(state.average)


def _num_bytes(network: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in network.parameters())


def _held_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / GIB
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 2**20


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return peak_memory_gib()


def fit_line(batch_sizes: Sequence[int], peaks: Sequence[float]) -> dict[str, float]:
    """Return what is fixed, what each image adds, and the largest error, all in GiB."""
    sizes = torch.tensor(batch_sizes, dtype=torch.float64)
    matrix = torch.stack([torch.ones_like(sizes), sizes], dim=1)
    values = torch.tensor(peaks, dtype=torch.float64)
    line = torch.linalg.lstsq(matrix, values[:, None]).solution[:, 0]
    error = (matrix @ line - values).abs().max()
    return {
        "fixed_gib": round(float(line[0]), 3),
        "image_gib": round(float(line[1]), 3),
        "largest_error_gib": round(float(error), 3),
    }


def main() -> None:
    """Measure every variant and batch size in a fresh process."""
    options = read_words(DEFAULTS)
    variants = options["variants"].split(",")
    batch_sizes = [int(word) for word in options["batch_sizes"].split(",")]
    if not set(variants) <= set(DTYPES):
        sys.exit(f"error: variants={options['variants']}; use any of {', '.join(DTYPES)}")
    words = [f"experiment={options['experiment']}", "data=none", *options["options"].split()]
    if options["neural_resolution"]:
        names = "model.generator.neural_rendering_resolution", "schedule.resolution_initial"
        words += [f"{name}={options['neural_resolution']}" for name in names]
    document: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/bench_memory.py", *sys.argv[1:]]),
        "experiment": options["experiment"],
        "neural_resolution": options["neural_resolution"],
        "batch_sizes": batch_sizes,
    }
    fits = {}
    for variant in variants:
        results = []
        for batch_size in batch_sizes:
            case = Case(tuple(words), variant, batch_size, options["device"])
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                results.append(pool.apply(measure, (case,)))
            print(variant, batch_size, results[-1], flush=True)
        document[variant] = {
            name: [round(result[name], 3) for result in results] for name in results[0]
        }
        if len(batch_sizes) > 1:
            fits[variant] = fit_line(batch_sizes, document[variant]["peak_gib"])
    document |= {"fits": fits, **describe_machine(torch.device(options["device"]))}
    report(document, options["output"])


if __name__ == "__main__":
    main()
