"""Time one training iteration: in the release's order, in plain autograd, and as training runs.

    python benchmarks/bench_training.py preset=face512 neural_resolution=64 runs=2

An iteration is the main steps of generator (all released terms, the eikonal term among them),
discriminator and image-and-mask discriminator, each with its Adam update of rate 0, so that all
variants and runs have the same weights. The lazy steps, R1 and density smoothness, are timed apart.
Every variant runs in a process of its own, on the same weights and the same random numbers:

    release_order  as the published code works; see `release_order.py`
    exact          every MLP by itself and kept for autograd, double backward for the eikonal term,
                   all samples, all pictures with segmentation, otherwise with our operations
    fast           what training runs with loss=released: as exact up to rounding
    subset         the same with loss.eikonal_points=16384, the default
    bf16           fast with train.precision=bf16

Words it takes:

    preset=face512           face512: published sizes and 19 labels; tiny: for tests
    neural_resolution=64     side of raw renders
    batch_size=1             images an iteration
    variants=release_order,exact,fast  any of the above; these three are needed
    runs=1                   the variants alternate so often, each time with a warm-up; the least
                             seconds count
    device=cpu               cpu or cuda
    output=                  also write the JSON here, e.g. benchmarks/results/training.json

The last line is one JSON object. Ratios are to the release's order; see `bench_generator.py` for
the two kinds of seconds. Differences and cosines compare a variant's losses and the gradients of
each network with those of exact. The release's order takes up to 16 GiB at the published size.
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import release_order
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
from torch import Tensor

from mate3d.cameras import make_camera
from mate3d.generator import Generator, GeneratorConfig
from mate3d.labels import one_hot_mask
from mate3d.network.discriminator import Discriminator, DiscriminatorConfig
from mate3d.network.sdf_decoder import SDFDecoder, widened_sigmoid
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
NEEDED = ("release_order", "exact", "fast")
VARIANTS = (*NEEDED, "subset", "bf16")
# The release computes these terms and multiplies them by 0, which ours would skip. The weight is
# too small to matter and large enough for gradients to stay normal numbers, which are faster.
ZERO = 1e-12
DEFAULTS = {
    "preset": "face512",
    "neural_resolution": "64",
    "batch_size": "1",
    "variants": ",".join(NEEDED),
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

    @property
    def decoder(self) -> SDFDecoder:
        """The field's decoder."""
        return self.field.decoder

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
    """Train for two iterations; return seconds, peak memory and losses, and save gradients."""
    device = torch.device(case.device)
    is_release = variant == "release_order"
    if is_release:
        synthesis.render_field = release_order.render_field
        steps.march_classes = release_order.marched_classes
    if is_release or variant == "exact":
        steps.generate_fakes = exact_fakes
    elif device.type == "cpu":
        keep_freed_memory()
    with release_order.in_release_order(training=True) if is_release else nullcontext():
        return _measure(case, variant, gradients_path)


def _measure(case: Case, variant: str, gradients_path: str) -> dict[str, Any]:
    device = torch.device(case.device)
    networks = make_networks(case, variant)
    loss = replace(LOSS, eikonal_points=16384) if variant == "subset" else LOSS
    if variant == "release_order":
        loss = replace(loss, density_consistency=ZERO, class_color_consistency=ZERO)
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

    def run(name: str, trained: str) -> tuple[float, Metrics]:
        random = BatchRandom((SEED,), range(case.batch_size), device)
        watch = Stopwatch(device)
        with watch, optimizing(getattr(networks, trained), optimizers[trained]):
            metrics = all_steps[name](replace(context, random=random))
        return round(watch.seconds, 2), metrics

    losses, parts = {}, {}
    for _ in range(2):
        with Stopwatch(device) as watch:
            for name in NETWORKS:
                parts[name], metrics = run(name, name)
                losses |= {key: float(value.mean()) for key, value in metrics.items()}
    peak = _peak_memory_gib(device)
    gradients = {
        name: torch.cat(
            [
                p.grad.flatten().cpu()
                for p in getattr(networks, name).parameters()
                if p.grad is not None
            ]
        )
        for name in NETWORKS
    }
    torch.save(gradients, gradients_path)
    lazy = (
        ("density_smoothness", "generator"),
        ("r1", "discriminator"),
        ("semantic_r1", "semantic_discriminator"),
    )
    return {
        "watch": watch,
        "parts": parts,
        "lazy_parts": {name: run(name, trained)[0] for name, trained in lazy},
        "peak_gib": peak,
        "losses": losses,
    }


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


def main() -> None:
    """Measure every variant in fresh processes, in alternation, and compare."""
    options = read_words(DEFAULTS)
    variants = options["variants"].split(",")
    if options["preset"] not in PRESETS:
        sys.exit(f"error: preset={options['preset']}; use one of: {', '.join(PRESETS)}")
    if not set(NEEDED) <= set(variants) <= set(VARIANTS):
        sys.exit(
            f"error: variants={options['variants']}; use {','.join(NEEDED)} and any of subset, bf16"
        )
    side, batch_size = int(options["neural_resolution"]), int(options["batch_size"])
    case = Case(options["preset"], side, batch_size, options["device"])
    device = torch.device(case.device)
    results: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    differences: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {variant: Path(folder) / f"{variant}.pt" for variant in variants}
        for _ in range(int(options["runs"])):
            for variant in variants:
                result = in_new_process(measure, case, variant, str(paths[variant]))
                results[variant].append(result)
                print(f"{variant}: {result['watch'].seconds:.1f} s", flush=True)
        exact = results["exact"][-1]
        for variant in variants:
            if variant != "exact":
                found = results[variant][-1]
                differences[variant] = compare(exact, found, paths["exact"], paths[variant])
    best = {way: min(all, key=lambda one: one["watch"].seconds) for way, all in results.items()}
    document = {
        "command": " ".join(["python", "benchmarks/bench_training.py", *sys.argv[1:]]),
        "preset": case.preset,
        "neural_resolution": side,
        "batch_size": batch_size,
        "runs": int(options["runs"]),
        **compare_seconds({way: [one["watch"] for one in all] for way, all in results.items()}),
        **compare_memory({way: all[0]["peak_gib"] for way, all in results.items()}, device),
        "parts": {way: one["parts"] for way, one in best.items()},
        "lazy_parts": {way: one["lazy_parts"] for way, one in best.items()},
        "differences_from_exact": differences,
        "losses_exact": exact["losses"],
        **describe_machine(device),
    }
    report(document, options["output"])


if __name__ == "__main__":
    main()
