"""Time one training iteration: the exact autograd path against what training runs.

    python benchmarks/bench_training.py preset=face512 neural_resolution=64 runs=3

An iteration is the main steps of generator (all released terms, the eikonal term among them),
discriminator and image-and-mask discriminator, each with its Adam update of rate 0, so that all
variants and runs have the same weights. The lazy steps, R1 and density smoothness, are timed apart.
Every variant runs in a process of its own, on the same weights and the same random numbers:

    exact    every MLP by itself and kept for autograd, double backward for the eikonal term, all
             samples, all pictures with segmentation
    fast     what training runs with loss=released: as exact up to rounding
    subset   the same with loss.eikonal_points=16384, the default
    bf16     fast with train.precision=bf16

Words it takes:

    preset=face512           face512: published sizes and 19 labels; tiny: for tests
    neural_resolution=64     side of raw renders
    batch_size=1             images an iteration
    variants=exact,fast      any of the above; exact and fast are needed
    runs=1                   iterations measured, after one that warms up; medians
    device=cpu               cpu or cuda
    output=                  also write the JSON here, e.g. benchmarks/results/training.json

The last line is one JSON object. Differences and cosines compare a variant's losses and the
gradients of each network with those of exact.
"""

import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import Stopwatch, describe_machine, peak_memory_gib, read_words, report
from torch import Tensor

from mate3d.cameras import make_camera
from mate3d.generator import Generator, GeneratorConfig
from mate3d.labels import one_hot_mask
from mate3d.network.discriminator import Discriminator, DiscriminatorConfig
from mate3d.network.sdf_decoder import widened_sigmoid
from mate3d.rendering.field import FieldSamples
from mate3d.rendering.renderer import RenderingConfig
from mate3d.rendering.triplane import TriPlaneField
from torch_utils.batch_random import BatchRandom
from torch_utils.heap import keep_freed_memory
from training import steps, synthesis
from training.losses.terms import LossSettings, Metrics
from training.optimization.adam import OptimizerSettings, make_adam, optimizing
from training.optimization.precision import TrainingPrecision
from training.optimization.schedules import ScheduleValues
from training.step_inputs import Latents, Networks, RealBatch, StepContext

SEED = 0
RELEASED = RenderingConfig(
    density_activation="softplus_shifted", importance_bins="legacy_midpoints", background_class=None
)
PRESETS: dict[str, tuple[GeneratorConfig, DiscriminatorConfig]] = {
    "face512": (GeneratorConfig(rendering=RELEASED), DiscriminatorConfig()),
    "tiny": (
        GeneratorConfig(
            label_set="catmask_hq",
            w_dim=16,
            plane_resolution=8,
            plane_channels=4,
            channel_base=64,
            channel_max=8,
            hidden_width=8,
            num_features=8,
            sr_input_resolution=8,
            resolution=16,
            sr_channels=(8, 8),
            rendering=replace(RELEASED, num_coarse_samples=6, num_fine_samples=6),
        ),
        DiscriminatorConfig(resolution=16, channel_base=64, channel_max=8, mapping_layers=1),
    ),
}
LOSS = LossSettings(eikonal_points=None, density_extent=1.0, with_double_blur=True)
NETWORKS = ("generator", "discriminator", "semantic_discriminator")
VARIANTS = ("exact", "fast", "subset", "bf16")
DEFAULTS = {
    "preset": "face512",
    "neural_resolution": "64",
    "batch_size": "1",
    "variants": "exact,fast",
    "runs": "1",
    "device": "cpu",
    "output": "",
}


@dataclass(frozen=True)
class Case:
    """What all variants share."""

    preset: str
    neural_resolution: int
    batch_size: int
    runs: int
    device: str


@dataclass(frozen=True)
class AutogradField:
    """A field whose MLPs run one by one and leave every derivative to autograd."""

    field: TriPlaneField

    @property
    def background(self) -> Tensor | None:
        """See `Field`."""
        return self.field.background

    @property
    def device(self) -> torch.device:
        """See `Field`."""
        return self.field.device

    def sample(self, points: Tensor) -> FieldSamples:
        """See `Field`."""
        decoder = self.field.decoder
        texture, shape = self.field.plane_features(points)
        class_sdf = torch.cat([mlp(shape) for mlp in decoder.class_heads], dim=-1)
        return FieldSamples(
            widened_sigmoid(decoder.color_head(texture)), decoder.sdf_head(shape), class_sdf
        )

    def sdf(self, points: Tensor) -> Tensor:
        """See `Field`."""
        return self.field.decoder.sdf_head(self.field.shape_features(points))

    def density(self, sdf: Tensor) -> Tensor:
        """See `Field`."""
        return self.field.density(sdf)


class ExactGenerator(Generator):
    """A generator that knows no fast way."""

    def make_planes(self, ws: Tensor, *, exact: bool = True, **options: Any) -> tuple[Tensor, ...]:
        """Return planes by the backbone as it trains."""
        return super().make_planes(ws, **options)

    def make_field(self, *args: Any, **options: Any) -> AutogradField:
        """Return a head without closed forms."""
        return AutogradField(super().make_field(*args, **options))


@torch.no_grad()
def exact_fakes(
    generator: Generator, latents: Latents, context: StepContext, *, with_segmentation: bool
) -> Any:
    """Render everything for a discriminator's step, whatever it looks at."""
    ws = synthesis.make_styles(generator, latents, context)
    generator.mapping.update_average(ws)
    field = synthesis.make_field(generator, ws, context)
    return synthesis.render_heads(generator, field, ws, latents, LOSS, context)


def make_networks(case: Case, variant: str) -> Networks:
    """Build all networks with random weights, and distances that cross zero."""
    torch.manual_seed(SEED)
    generator_config, sizes = PRESETS[case.preset]
    kind = ExactGenerator if variant == "exact" else Generator
    generator = kind(generator_config)
    with torch.no_grad():
        for mlp in (generator.decoder.sdf_head, *generator.decoder.class_heads):
            # Softplus of small numbers is about 0.8.
            mlp[2].weight *= 0.2
            mlp[2].bias.copy_(-0.8 * mlp[2].scaled_weight().sum(dim=1))
    num_classes = generator.label_set.num_classes
    networks = Networks(
        generator,
        Discriminator(sizes),
        Discriminator(replace(sizes, image_channels=3 + num_classes)),
    )
    for name in NETWORKS:
        getattr(networks, name).to(case.device).train().requires_grad_(False)
    return networks


def make_steps(
    case: Case, networks: Networks, loss: LossSettings
) -> dict[str, Callable[[StepContext], Metrics]]:
    """Return the steps by name, each with latents of its own."""
    random, batch = torch.Generator().manual_seed(SEED), case.batch_size
    generator = networks.generator
    side, num_classes = generator.config.resolution, generator.label_set.num_classes
    cameras = torch.cat([make_camera(0.3 - 0.1 * index, 0.1) for index in range(batch)])
    cameras = cameras.to(case.device)

    def draw() -> Latents:
        z = torch.randn(batch, generator.config.z_dim, generator=random)
        return Latents(z.to(case.device), cameras)

    image = torch.rand(batch, 3, side, side, generator=random) * 2 - 1
    ids = torch.randint(num_classes, (batch, side, side), generator=random)
    real = RealBatch(image.to(case.device), one_hot_mask(ids, num_classes).to(case.device), cameras)
    points = torch.rand(batch, 2 * loss.density_points, 3, generator=random).to(case.device) - 0.5
    latents = [draw() for _ in range(4)]
    return {
        "generator": lambda context: steps.generator_step(networks, latents[0], loss, context),
        "discriminator": lambda context: steps.discriminator_step(
            networks, latents[1], real, loss, context
        ),
        "semantic_discriminator": lambda context: steps.semantic_discriminator_step(
            networks, latents[2], real, loss, context
        ),
        "density_smoothness": lambda context: steps.density_step(
            networks, latents[3], loss, context, points=points
        ),
        "r1": lambda context: steps.r1_step(networks, real, loss, context),
        "semantic_r1": lambda context: steps.semantic_r1_step(networks, real, loss, context),
    }


def measure(case: Case, variant: str, gradients_path: str) -> dict[str, Any]:
    """Train for some iterations; return seconds, peak memory and losses, and save gradients."""
    device = torch.device(case.device)
    if variant == "exact":
        steps.generate_fakes = exact_fakes
    elif device.type == "cpu":
        keep_freed_memory()
    networks = make_networks(case, variant)
    loss = replace(LOSS, eikonal_points=16384) if variant == "subset" else LOSS
    schedule = ScheduleValues(case.neural_resolution, blur_sigma=0.0, pose_swap_probability=0.5)
    context = StepContext(
        schedule,
        precision=TrainingPrecision("bf16" if variant == "bf16" else "fp32", device),
    )
    all_steps = make_steps(case, networks, loss)
    settings = OptimizerSettings()
    optimizers = {
        name: make_adam(getattr(networks, name).parameters(), 0.0, settings) for name in NETWORKS
    }

    def run(name: str, trained: str) -> tuple[Stopwatch, Metrics]:
        random = BatchRandom((SEED,), range(case.batch_size), device)
        watch = Stopwatch(device)
        with watch, optimizing(getattr(networks, trained), optimizers[trained]):
            metrics = all_steps[name](replace(context, random=random))
        return watch, metrics

    iterations, losses = [], {}
    for _ in range(case.runs + 1):
        watches = {}
        for name in NETWORKS:
            watches[name], metrics = run(name, name)
            losses |= {key: float(value.mean()) for key, value in metrics.items()}
        iterations.append(watches)
    peak = _peak_memory_gib(device)
    torch.save(
        {
            name: torch.cat(
                [
                    p.grad.flatten().cpu()
                    for p in getattr(networks, name).parameters()
                    if p.grad is not None
                ]
            )
            for name in NETWORKS
        },
        gradients_path,
    )
    lazy = {
        name: run(name, trained)[0].seconds
        for name, trained in (
            ("density_smoothness", "generator"),
            ("r1", "discriminator"),
            ("semantic_r1", "semantic_discriminator"),
        )
    }
    measured = iterations[1:]
    return {
        "seconds": statistics.median(_total(watches, "seconds") for watches in measured),
        "processor_seconds": statistics.median(
            _total(watches, "processor_seconds") for watches in measured
        ),
        "parts": {
            name: round(statistics.median(watches[name].seconds for watches in measured), 2)
            for name in NETWORKS
        },
        "lazy_parts": {name: round(seconds, 2) for name, seconds in lazy.items()},
        "peak_gib": peak,
        "peak_gib_with_lazy": _peak_memory_gib(device),
        "losses": losses,
    }


def _total(watches: dict[str, Stopwatch], kind: str) -> float:
    return sum(getattr(watch, kind) for watch in watches.values())


def _peak_memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_memory_gib()


def compare(
    expected: dict[str, Any], found: dict[str, Any], expected_path: Path, found_path: Path
) -> dict[str, Any]:
    """Return how far losses and gradients of two variants are apart."""
    differences = {
        name.removeprefix("Loss/"): abs(found["losses"][name] - value) / max(abs(value), 1e-12)
        for name, value in expected["losses"].items()
        if not name.startswith("Loss/signs/")
    }
    cosines, norms = {}, {}
    pairs = (torch.load(expected_path), torch.load(found_path))
    for name in NETWORKS:
        one, other = (gradients[name].double() for gradients in pairs)
        cosines[name] = float(one @ other / (one.norm() * other.norm()))
        norms[name] = float((one - other).norm() / one.norm())
    return {
        "relative_loss_differences": {k: float(f"{v:.2g}") for k, v in differences.items()},
        "gradient_cosines": {name: round(value, 9) for name, value in cosines.items()},
        "relative_gradient_differences": {k: float(f"{v:.2g}") for k, v in norms.items()},
    }


def summarize(variant: str, result: dict[str, Any]) -> dict[str, Any]:
    """Return one variant's figures under names that carry it."""
    end = "" if variant == "fast" else f"_{variant}"
    return {
        f"seconds_{variant}": round(result["seconds"], 2),
        f"processor_seconds_{variant}": round(result["processor_seconds"], 2),
        f"peak_rss_gib{end}": round(result["peak_gib"], 2),
        f"peak_rss_gib_with_lazy{end}": round(result["peak_gib_with_lazy"], 2),
        f"parts{end}": result["parts"],
        f"lazy_parts{end}": result["lazy_parts"],
    }


def main() -> None:
    """Measure every variant in a fresh process and compare."""
    options = read_words(DEFAULTS)
    variants = options["variants"].split(",")
    if options["preset"] not in PRESETS:
        sys.exit(f"error: preset={options['preset']}; use one of: {', '.join(PRESETS)}")
    if not {"exact", "fast"} <= set(variants) <= set(VARIANTS):
        sys.exit(f"error: variants={options['variants']}; use exact,fast and any of subset, bf16")
    numbers = (int(options[name]) for name in ("neural_resolution", "batch_size", "runs"))
    case = Case(options["preset"], *numbers, options["device"])
    results, document = {}, {"preset": case.preset, "neural_resolution": case.neural_resolution}
    with tempfile.TemporaryDirectory() as folder:
        paths = {variant: Path(folder) / f"{variant}.pt" for variant in variants}
        for variant in variants:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                results[variant] = pool.apply(measure, (case, variant, str(paths[variant])))
            document |= summarize(variant, results[variant])
            print(variant, results[variant], flush=True)
        for variant in variants:
            if variant != "exact":
                found = compare(results["exact"], results[variant], paths["exact"], paths[variant])
                end = "" if variant == "fast" else f"_{variant}"
                document |= {f"{name}{end}": value for name, value in found.items()}
    document = {
        "command": " ".join(["python", "benchmarks/bench_training.py", *sys.argv[1:]]),
        "batch_size": case.batch_size,
        "runs": case.runs,
        **document,
        "speedup": round(document["seconds_exact"] / document["seconds_fast"], 2),
        "losses_exact": results["exact"]["losses"],
        **describe_machine(torch.device(case.device)),
    }
    if case.device == "cuda":
        document = {k.replace("peak_rss", "peak_device_memory"): v for k, v in document.items()}
    report(document, options["output"])


if __name__ == "__main__":
    main()
