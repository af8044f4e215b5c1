"""Measure what the precision of the networks changes in the heads of generators.

    python benchmarks/bench_precision.py output=benchmarks/results/precision.json

Each head is computed in fp32 and in the other precisions from the same latent, with samples at the
same depths, as training does on a GPU. Words:

    generators=FOLDER,...  checkpoints; random is one of the published sizes with random weights,
                          rendered with 32 x 32 rays
    precisions=...         as `train.precision`; tf32 emulates the convolutions of fp32 on a GPU
    num_heads=2

For each precision, against fp32:

    gradient_shift        of the distance's gradient at all samples in the planes' box: rms of the
                          difference, divided by the rms of the gradient
    normals_degrees       rms angle between normals, over pixels of opacity above 0.5
    raw_psnr, image_psnr  in dB, of the colours rendered and of the final image; null if equal
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from common import describe_machine, read_words, report
from torch import Tensor
from torch.nn import functional as F

from mate3d.cameras import make_camera
from mate3d.checkpoint import load_generator
from mate3d.generator import Generator, RenderOutput
from mate3d.generator_config import GeneratorConfig
from mate3d.network import layers
from mate3d.network.mapping import latents_from_seeds
from mate3d.rendering.rays import sample_rays
from mate3d.rendering.renderer import render_field
from training.optimization import precision
from training.optimization.schedules import ScheduleSettings, schedule_values
from training.step_inputs import StepContext
from training.synthesis import make_field

DEFAULTS = {
    "generators": "mate3d/assets/demo_cat,random",
    "precisions": "tf32,mixed,bf16",
    "num_heads": "2",
    "output": "",
}
FEW_RAYS = GeneratorConfig(neural_rendering_resolution=32)


def round_to_tf32(x: Tensor) -> Tensor:
    """Round float32 numbers to 10 bits of mantissa, ties to even."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) >> 13 << 13).view(torch.float32)


@contextmanager
def convolutions_in_tf32() -> Iterator[None]:
    """Round the factors of convolutions, except those of filters, which have their own kernel."""

    def rounded(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def convolve(x: Tensor, weight: Tensor, *args: Any, groups: int = 1, **options: Any):
            if groups == 1:
                x, weight = round_to_tf32(x), round_to_tf32(weight)
            return function(x, weight, *args, groups=groups, **options)

        return convolve

    functions = {name: rounded(getattr(F, name)) for name in ("conv2d", "conv_transpose2d")}
    with mock.patch.multiple(F, **functions):
        yield


def render(
    generator: Generator, ws: Tensor, camera: Tensor, name: str, depths: Tensor | None = None
) -> RenderOutput:
    """Render a head in a precision, at given depths."""
    context = StepContext(
        schedule_values(ScheduleSettings(), 0),
        noise_mode="const",
        precision=precision.TrainingPrecision("fp32" if name == "tf32" else name),
    )
    rays = sample_rays(camera, generator.config.neural_rendering_resolution)
    options = {"depths": depths, "with_normals": True, "with_samples": True}
    with convolutions_in_tf32() if name == "tf32" else nullcontext():
        field = make_field(generator, ws, context)
        view = render_field(field, *rays, generator.config.rendering, **options)
        with context.precision.image_networks():
            return generator.superresolve(view, ws)


def compare(exact: RenderOutput, other: RenderOutput, box_size: float) -> list[Tensor]:
    """Return the mean squares that the results are made of."""
    inside = (exact.samples.points.abs() < box_size / 2).all(dim=-1)
    gradient, changed = (view.samples.sdf_gradient[inside] for view in (exact, other))
    is_head = exact.opacity[:, 0] > 0.5
    a, b = (view.normals.movedim(1, -1)[is_head] for view in (exact, other))
    angle = torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(dim=-1))
    raw, image = other.image_raw - exact.image_raw, other.image - exact.image
    return [x.square().mean() for x in (changed - gradient, gradient, angle, raw, image)]


@torch.no_grad()
def measure(generator: Generator, names: list[str], num_heads: int) -> list[dict[str, Any]]:
    """Compare each precision with fp32."""
    found: dict[str, list[list[Tensor]]] = {name: [] for name in names}
    for seed in range(num_heads):
        camera = make_camera(yaw=0.3 * math.cos(2 * seed), pitch=0.1)
        ws = generator.map(latents_from_seeds([seed], generator.config.z_dim), camera)
        exact = render(generator, ws, camera, "fp32")
        for name, values in found.items():
            other = render(generator, ws, camera, name, exact.samples.depths)
            values.append(compare(exact, other, generator.config.box_size))
    rows = []
    for name, values in found.items():
        change, gradient, angle, raw, image = torch.tensor(values).mean(dim=0).tolist()
        row = {"precision": name, "gradient_shift": round(math.sqrt(change / gradient), 5)}
        row["normals_degrees"] = round(math.degrees(math.sqrt(angle)), 3)
        for part, error in (("raw_psnr", raw), ("image_psnr", image)):
            row[part] = round(10 * math.log10(4 / error), 1) if error > 0 else None
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    """Measure generators."""
    words, rows = read_words(DEFAULTS), []
    torch.manual_seed(0)
    # As on a GPU, which computes in bf16 and scales activations instead of weights.
    with (
        mock.patch.object(precision, "computes_bfloat16", lambda _: True),
        mock.patch.object(layers, "_scale_weights", layers._scale_activations),
    ):
        for name in words["generators"].split(","):
            generator = Generator(FEW_RAYS) if name == "random" else load_generator(name)
            names = words["precisions"].split(",")
            found = measure(generator.eval(), names, int(words["num_heads"]))
            rows += [{"generator": Path(name).name, **row} for row in found]
    machine = describe_machine(torch.device("cpu"))
    report({"command": " ".join(["python", *sys.argv]), **machine, "rows": rows}, words["output"])


if __name__ == "__main__":
    main()
