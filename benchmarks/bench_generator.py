"""Time the generator in the release's order, exact and fast: same weights, camera and process.

    python benchmarks/bench_generator.py preset=face512 neural_resolution=128 runs=3
    python benchmarks/bench_generator.py preset=demo runs=9 output=results.json

One image and its segmentation, style vectors to pixels, by `release_order.py`, by `exact=True` and
by `exact=False`. Words it takes:

    preset=face512           face512: published sizes, 19 labels, the release's density
                             (softplus_shifted), random weights: all samples of a ray show;
                             face512_own: the same with the project's density and a head-sized
                             ball: most of space is empty; demo: the demo generator; tiny: for tests
    neural_resolution=128    side of the raw render; 0 is the generator's own
    runs=3                   the three ways alternate so often after a warm-up; the shortest counts
    device=cpu               cpu or cuda
    output=                  also write the JSON here, e.g. benchmarks/results/generator.json

The last line is one JSON object. Ratios are to the release's order. Processor seconds depend less
on what else the machine does, but with several threads they do not say how long one waits.
`parts` are the seconds of the fast path: `distances` (look-up and global distance),
`colors_and_classes` (where samples show), `compositing` (all else of rendering). `peak_rss_gib` is
all memory of a process that imports, builds and runs nothing but one way.
"""

import statistics
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import (
    Stopwatch,
    compare_memory,
    compare_seconds,
    describe_machine,
    in_new_process,
    peak_memory_gib,
    read_words,
    report,
)
from release_order import in_release_order
from torch import Tensor

from mate3d.cameras import make_camera
from mate3d.checkpoint import load_generator
from mate3d.generator import Generator, GeneratorConfig, RenderOutput
from mate3d.network.synthesis import superresolve
from mate3d.rendering.fast_rendering import render_field_fast
from mate3d.rendering.field import FieldProbe, WrappedField, open_probe
from mate3d.rendering.rays import sample_rays
from mate3d.rendering.renderer import RenderingConfig

SEED = 0
WAYS = ("release_order", "exact", "fast")
PSNR_OF = ("image", "segmentation", "image_raw", "segmentation_raw")
DEMO = Path(__file__).parents[1] / "mate3d/assets/demo_cat"
RELEASED = RenderingConfig(
    density_activation="softplus_shifted", importance_bins="legacy_midpoints", background_class=None
)
PRESETS = {
    "face512": GeneratorConfig(label_set="celebamask_hq", rendering=RELEASED),
    "face512_own": GeneratorConfig(label_set="celebamask_hq", beta=0.005),
    "demo": None,
    "tiny": GeneratorConfig(
        label_set="catmask_hq",
        w_dim=16,
        plane_resolution=8,
        plane_channels=4,
        channel_base=64,
        channel_max=8,
        hidden_width=8,
        num_features=8,
        neural_rendering_resolution=8,
        sr_input_resolution=8,
        resolution=16,
        sr_channels=(8, 8),
        rendering=replace(RELEASED, num_coarse_samples=6, num_fine_samples=6),
    ),
}
BALL_RADIUS = 0.25
DEFAULTS = {
    "preset": "face512",
    "neural_resolution": "128",
    "runs": "3",
    "device": "cpu",
    "output": "",
}


def make_generator(preset: str, device: torch.device) -> Generator:
    """Load the demo generator, or build a preset with random weights."""
    if preset == "demo":
        return load_generator(DEMO, device)
    torch.manual_seed(SEED)
    generator = Generator(PRESETS[preset]).to(device).eval().requires_grad_(False)
    if preset == "face512_own":
        _read_ball_from_first_channel(generator)
    return generator


def _read_ball_from_first_channel(generator: Generator) -> None:
    """Make the global SDF an affine function of the first shape feature."""
    first, last = generator.decoder.sdf_head[0], generator.decoder.sdf_head[2]
    for layer in (first, last):
        layer.weight.zero_()
        layer.bias.zero_()
    # Softplus is the identity far above zero; (r^2 - R^2) / 2R has slope 1 at the surface.
    first.weight[0, 0] = 1 / first.weight_gain
    first.bias[0] = 20
    last.weight[0, 0] = 1 / last.weight_gain
    last.bias[0] = -20


def make_planes(generator: Generator, ws: Tensor, *, exact: bool) -> tuple[Tensor, Tensor]:
    """Return planes; in those of face512_own the first shape channel holds a ball."""
    planes = generator.make_planes(ws, exact=exact)
    if generator.config.rendering == RELEASED or generator.config.beta != 0.005:
        return planes
    side = generator.config.plane_resolution
    position = (torch.arange(side, device=ws.device) + 0.5) / side - 0.5
    squares = 0.75 * (
        position[:, None] ** 2 + position**2
    )  # a third of it, three times, is r^2 / 2
    planes[1][:, :, 0] = (2 * squares - BALL_RADIUS**2) / (2 * BALL_RADIUS)
    return planes


@dataclass(frozen=True)
class TimedField(WrappedField):
    """A field whose looks are timed."""

    distances: Stopwatch
    colors_and_classes: Stopwatch


@dataclass(frozen=True)
class TimedProbe(FieldProbe):
    """A probe that reports to its field's watches."""

    field: TimedField
    probe: FieldProbe

    def begin(self, points: Tensor) -> tuple[Tensor, Any]:
        """See `FieldProbe`."""
        with self.field.distances:
            return self.probe.begin(points)

    def finish(self, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """See `FieldProbe`."""
        with self.field.colors_and_classes:
            return self.probe.finish(*args, **options)


@open_probe.register
def _(field: TimedField) -> FieldProbe:
    return TimedProbe(field, open_probe(field.field))


def synthesize(
    generator: Generator, ws: Tensor, camera: Tensor, side: int, way: str
) -> RenderOutput:
    """Make an image and its segmentation."""
    exact = way != "fast"
    with in_release_order() if way == "release_order" else nullcontext():
        field = generator.make_field(ws, make_planes(generator, ws, exact=exact))
        return generator.render(field, ws, camera, neural_rendering_resolution=side, exact=exact)


def time_parts(generator: Generator, ws: Tensor, camera: Tensor, side: int) -> dict[str, float]:
    """Return the seconds of each part of the fast path."""
    names = ("planes", "rendering", "image", "segmentation", "distances", "colors_and_classes")
    watches = {name: Stopwatch(ws.device) for name in names}
    with watches["planes"]:
        planes = make_planes(generator, ws, exact=False)
    field = TimedField(
        generator.make_field(ws, planes), watches["distances"], watches["colors_and_classes"]
    )
    with watches["rendering"]:
        view = render_field_fast(field, *sample_rays(camera, side), generator.config.rendering)
    features = view.feature_image
    with watches["image"]:
        superresolve(generator.superresolution, features[:, :3], features, ws)
    with watches["segmentation"]:
        network = generator.segmentation_superresolution
        superresolve(network, view.segmentation_raw, features, ws)
    seconds = {name: watch.seconds for name, watch in watches.items()}
    inside = seconds["distances"] + seconds["colors_and_classes"]
    return {
        "planes": seconds["planes"],
        "distances": seconds["distances"],
        "colors_and_classes": seconds["colors_and_classes"],
        "compositing": seconds["rendering"] - inside,
        "superresolution_of_image": seconds["image"],
        "superresolution_of_segmentation": seconds["segmentation"],
    }


def make_inputs(generator: Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return style vectors and a camera."""
    random = torch.Generator().manual_seed(SEED)
    z = torch.randn(1, generator.config.z_dim, generator=random).to(device)
    camera = make_camera(0.2, 0.1).to(device)
    return generator.map(z, camera, truncation_psi=0.7), camera


@torch.no_grad()
def peak_memory(preset: str, side: int, device: str, way: str) -> float:
    """Return the most memory that this process has held after one image, in GiB."""
    generator = make_generator(preset, torch.device(device))
    ws, camera = make_inputs(generator, torch.device(device))
    synthesize(generator, ws, camera, side, way)
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_memory_gib()


@torch.no_grad()
def measure(preset: str, side: int, runs: int, device: torch.device) -> dict[str, Any]:
    """Alternate the ways; return the least seconds, parts and how near the images are."""
    generator = make_generator(preset, device)
    side = side or generator.config.neural_rendering_resolution
    ws, camera = make_inputs(generator, device)
    watches: dict[str, list[Stopwatch]] = {way: [] for way in WAYS}
    parts, outputs = [], {}
    for index in range(runs + 1):
        for way in WAYS:
            with Stopwatch(device) as watch:
                outputs[way] = synthesize(generator, ws, camera, side, way)
            if index > 0:
                watches[way].append(watch)
        if index > 0:
            parts.append(time_parts(generator, ws, camera, side))
    pairs = {name: [getattr(outputs[way], name) for way in WAYS] for name in PSNR_OF}
    psnr = {name: _psnr(exact, fast) for name, (_, exact, fast) in pairs.items()}
    errors = [
        float((release - exact).abs().max() / exact.abs().max())
        for release, exact, _ in pairs.values()
    ]
    return {
        "neural_resolution": side,
        **compare_seconds(watches),
        "largest_error_release_order": float(f"{max(errors):.2g}"),
        "psnr_db": round(min(psnr.values()), 1),
        "psnr_db_of": {name: round(value, 1) for name, value in psnr.items()},
        "parts": {
            name: round(statistics.median(part[name] for part in parts), 3) for name in parts[0]
        },
    }


def _psnr(expected: Tensor, value: Tensor) -> float:
    """Return the PSNR of images in -1..1, at most 200 dB."""
    error = (expected - value).square().mean().clamp(min=4e-20)
    return float(10 * torch.log10(4 / error))


def main() -> None:
    """Measure with the options of the command line."""
    options = read_words(DEFAULTS)
    preset, device = options["preset"], options["device"]
    if preset not in PRESETS:
        sys.exit(f"error: preset={preset}; use one of: {', '.join(PRESETS)}")
    side = int(options["neural_resolution"])
    result = measure(preset, side, int(options["runs"]), torch.device(device))
    memory = {way: in_new_process(peak_memory, preset, side, device, way) for way in WAYS}
    document = {
        "command": " ".join(["python", "benchmarks/bench_generator.py", *sys.argv[1:]]),
        "preset": preset,
        "runs": int(options["runs"]),
        **result,
        **compare_memory(memory, torch.device(device)),
        **describe_machine(torch.device(device)),
    }
    report(document, options["output"])


if __name__ == "__main__":
    main()
