"""Time one step of an edit, rendered as a whole (exact) and where the edit can reach (fast).

    python benchmarks/bench_edit.py preset=demo steps=4 runs=3
    python benchmarks/bench_edit.py preset=face512 neural_resolution=64 steps=1 runs=1

Exact is the straightforward step: both views and the source's beside the second are rendered
whole at each step, the copy is asked at every sample, normals are differentiated twice by autograd;
the source's planes and its picture at the painted view are kept, as they always were, and what is
faster in the generator itself (MLPs, look-ups) serves both. Fast is `edit.exact=false`.
Both start each step from the same weights and draws, in one warm process and taking turns, and
their losses are compared; medians are over all steps of all runs. Parts exclude each other:
superresolution is not counted as render. Peak memory is that of a process of its own for each, of
one step.

Presets: demo is `experiment=demo_cat_ears`; face512 has the published sizes and conventions with
random weights, where a square of a tenth of the picture is edited through the whole depth. Words:

    neural_resolution=    side of raw renders instead of the preset's
    steps=4 runs=3        steps of a run, and runs
    device=cpu            or cuda
    output=               also write the JSON here, e.g. benchmarks/results/edit.json

    python benchmarks/bench_edit.py preset=sd15 output=benchmarks/results/edit_sd15.json

preset=sd15 is face512 with a random prior of Stable Diffusion 1.5's sizes. It compares nothing: it
takes the first step of each variant, in a process of its own, and says what its parts take:
seconds, floating-point operations, and the most bytes of live tensors meanwhile. Its words:

    edits=cdgt,denoised   variants: cdgt, and the objectives for edit=best
    denoising_steps=1     denoiser calls per target of `denoised`; what it takes with as many as in
                          guidance=stable_diffusion_1_5 is computed from that
    precision=bf16        of the prior
    checkpointing=true    of the encoder, as in guidance=stable_diffusion_1_5
    region=classes        or everywhere, as with edit=no_fusion; surfaces count as a fog, as in the
                          release, so that the region of classes has no limits
"""

import dataclasses
import multiprocessing
import os
import statistics
import sys
import time
from collections import Counter
from typing import Any

import sd15
import torch
from common import cpu_name, describe_machine, peak_memory_gib, read_words, report
from parts import Parts, digits

from editing.edited_generator import EditedGenerator
from editing.guidance.base import Guidance
from editing.guidance.loading import load_controlnet_guidance
from editing.head_scale import HeadScale
from editing.loop import EditLoop, EditTarget
from editing.masks import find_mask, load_painted_mask
from editing.options import EditOptions, ObjectiveOptions
from editing.portrait import Portrait, sample_portrait
from editing.regions import (
    ClassRegion,
    EditRegion,
    PaintedRegion,
    PaintedView,
    make_regions,
)
from editing.views import FastSourceView, view_source
from mate3d.checkpoint import load_generator
from mate3d.generator import Generator, GeneratorConfig
from mate3d.network.mapping import latents_from_seeds
from mate3d.rendering.renderer import RenderingConfig
from scripts._compose import read_options
from torch_utils.ops.execution import DTYPES

SEED = 7
WAYS = ("exact", "fast")
# Of the prior: encoding by the VAE, its backward pass, UNet and ControlNet, decoding by the VAE.
PRIOR_PARTS = ("encode", "encode_backward", "denoise", "decode")
PARTS = ("planes", "render", "superresolution", *PRIOR_PARTS, "losses", "backward")
PROMPT = "a black cat with big pointed black ears and blue eyes"
# Published sizes and conventions; the weights are random, on which time hardly depends.
FACE512 = GeneratorConfig(
    label_set="celebamask_hq",
    plane_layout="eg3d_legacy",
    rendering=RenderingConfig(
        density_activation="softplus_shifted",
        importance_bins="legacy_midpoints",
        background_class=None,
    ),
)
DEFAULTS = {
    "preset": "demo",
    "neural_resolution": "",
    "steps": "4",
    "runs": "3",
    "device": "cpu",
    "output": "",
    "edits": "cdgt,denoised",
    "region": "classes",
    "denoising_steps": "1",
    "precision": "bf16",
    "checkpointing": "true",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """Everything that makes a loop.

    Args:
        portrait: Frozen head.
        regions: Where it may change, and where only its texture may.
        target: Mask, classes, prior and prompt.
        options: Weights and rates.
    """

    portrait: Portrait
    regions: tuple[EditRegion, EditRegion | None]
    target: EditTarget
    options: EditOptions

    def make_loop(self, *, exact: bool) -> EditLoop:
        """Return a loop of its own copy of the backbone."""
        options = dataclasses.replace(self.options, exact=exact)
        edited = EditedGenerator(
            self.portrait.generator, self.portrait.ws, *self.regions, learnable=options.learnable
        )
        return EditLoop(edited, self.target, options, seed=SEED)


def make_case(words: dict[str, str], guidance: Guidance | None = None) -> Case:
    """Build a preset.

    Args:
        guidance: Replaces the preset's own.
    """
    device, side = torch.device(words["device"]), words["neural_resolution"]
    config = read_options("edit", ["experiment=demo_cat_ears", "output=-"])
    if guidance is None and words["preset"] == "sd15":
        guidance = sd15.make_guidance(
            DTYPES[words["precision"]], checkpointing=words["checkpointing"] == "true"
        ).to(device)
    elif guidance is None:
        guidance = load_controlnet_guidance(config.guidance, device)
    generator = _make_generator(words["preset"], config.generator, device)
    if side:
        sized = dataclasses.replace(generator.config, neural_rendering_resolution=int(side))
        generator.config = sized
    if words["preset"] == "demo":
        portrait = sample_portrait(generator, seed=SEED, truncation_psi=config.truncation_psi)
        view, scale = portrait.view(portrait.camera()), portrait.scale
        options = config.edit
        mask = find_mask(config.mask)
        painted = load_painted_mask(mask, generator.label_set, generator.config.resolution)
        class_ids = tuple(generator.label_set.class_id(name) for name in config.edit_classes)
        view = dataclasses.replace(view, label_map=painted.to(device))
        regions = make_regions(options.region, class_ids, [view], scale, generator.label_set)
    else:
        portrait, view = _blank_portrait(generator)
        # Random weights have no surface to measure.
        size = generator.config.box_size / 2
        scale = HeadScale(size, thickness=0.1 * size, slope=1.0)
        options = EditOptions(distillation=ObjectiveOptions(guidance_scale=10.0))
        painted, class_ids = view.label_map.clone(), (1,)
        part = slice(round(0.2 * painted.shape[1]), round(0.52 * painted.shape[1]))
        painted[:, part, part] = 1
        view = dataclasses.replace(view, label_map=painted)
        regions = PaintedRegion(ClassRegion(()), view.camera, view.repainted(class_ids)), None
        if words["preset"] == "sd15":
            steps = f"edit.distillation.denoised.num_denoising_steps={words['denoising_steps']}"
            options = _prior_options(words, steps)
            scale = HeadScale(size, thickness=size, slope=1.0)
            where = dataclasses.replace(options.region, kind=words["region"])
            regions = make_regions(where, class_ids, [view], scale, generator.label_set)
    embeds = guidance.encode_prompt(PROMPT)
    target = EditTarget((view,), class_ids, scale, guidance, embeds)
    return Case(portrait, regions, target, options)


def _make_generator(preset: str, folder: str, device: torch.device) -> Generator:
    if preset == "demo":
        return load_generator(folder, device)
    if preset not in ("face512", "sd15"):
        sys.exit(f"error: preset={preset}; use demo, face512 or sd15")
    torch.manual_seed(SEED)
    return Generator(FACE512).to(device).eval().requires_grad_(False)


def _prior_options(words: dict[str, str], *changed: str) -> EditOptions:
    """Return the options of the variant in `edits`."""
    name = words["edits"]
    preset = ("guidance=stable_diffusion_1_5", "guidance.controlnet=demo_prior")
    variant = "edit=cdgt" if name == "cdgt" else f"edit.objective={name}"
    return read_options("edit", ["output=-", "mask=null", *preset, variant, *changed]).edit


@torch.no_grad()
def _blank_portrait(generator: Generator) -> tuple[Portrait, PaintedView]:
    """Return a head and a view with a mask of one class, which needs no long render."""
    device, size = next(generator.parameters()).device, generator.config.resolution
    camera = generator.config.camera_rig.make_camera().to(device)
    z = latents_from_seeds([SEED], generator.config.z_dim).to(device)
    label_map = torch.zeros(1, size, size, dtype=torch.int64, device=device)
    view = PaintedView(camera, label_map, label_map)
    return Portrait(generator, generator.map(z, camera)), view


def watch_case(watch: Parts, case: Case) -> None:
    """Sort what steps of all loops of a case take."""
    guidance = case.target.guidance
    watch.watch(case.portrait.generator, "superresolve", "superresolution")
    watch.watch(FastSourceView, "fused", "render")
    watch.watch(FastSourceView, "enlarge", "superresolution")
    watch.watch(guidance, "encode_image", "encode")
    watch.watch_gradient(guidance, "encode_image", "encode_backward")
    watch.watch(guidance, "predict_noise", "denoise")
    watch.watch(guidance, "decode_latents", "decode")
    watch.watch(torch.Tensor, "backward", "backward")


def watch_loop(watch: Parts, loop: EditLoop) -> None:
    """Sort what steps of a loop take."""
    watch.watch(loop.edited, "fused_field", "planes")
    watch.watch(loop.edited, "render_raw", "render")
    watch.watch(loop, "_view_source", "render")


class Comparison:
    """Takes the same steps exactly and fast, and keeps what they took and returned.

    Args:
        case: What is edited.
        device: Where.
    """

    def __init__(self, case: Case, device: torch.device):
        self.case, self.device = case, device
        self.watch = Parts(device)
        watch_case(self.watch, case)
        self.parts: dict[str, list[Counter[str]]] = {name: [] for name in WAYS}
        self.processor_seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        self.final_seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        self.differences: dict[str, dict[str, float]] = {}
        self.cosines: list[float] = []

    def run(self, num_steps: int) -> None:
        """Begin anew, warm up, take steps spread over an edit, and show its result."""
        self.loops = {name: self._make_loop(name) for name in WAYS}
        for loop in self.loops.values():
            loop.step(0.0)
        for step in range(num_steps):
            # Which way comes first changes, so that neither gains from a warm cache.
            self._step((step + 0.5) / num_steps, WAYS if step % 2 else WAYS[::-1])
        for name in WAYS:
            self.final_seconds[name].append(self._final_view(self.loops[name]))

    def seconds(self, name: str) -> dict[str, float]:
        """Return the medians of a step, and of its parts, of one way."""
        parts = self.parts[name]
        found = {part: statistics.median(taken[part] for taken in parts) for part in PARTS}
        total = statistics.median(sum(taken.values()) for taken in parts)
        found |= {"step": total, "processor": statistics.median(self.processor_seconds[name])}
        found["final_view"] = statistics.median(self.final_seconds[name])
        return {part: round(value, 4) for part, value in found.items()}

    def reached(self) -> float:
        """Return the share of the painted view's rays that the edit can reach."""
        source = self.loops["fast"].source_views[0]
        return len(source.index) / source.values.depths.shape[1]

    def _make_loop(self, name: str) -> EditLoop:
        loop = self.case.make_loop(exact=name == "exact")
        watch_loop(self.watch, loop)
        return loop

    def _step(self, progress: float, order: tuple[str, ...]) -> None:
        state = self.loops["exact"].edited.edit_state()
        draws = self.loops["exact"].generator.get_state()
        terms, gradients = {}, {}
        for name in order:
            loop = self.loops[name]
            loop.edited.load_edit_state(state)
            loop.generator.set_state(draws)
            terms[name] = self._timed_step(name, progress)
            gradients[name] = torch.cat([p.grad.flatten() for p in loop.parameters]).double()
        for term, value in terms["exact"].items():
            difference = abs(terms["fast"][term] - value)
            if difference >= self.differences.get(term, {"absolute": -1.0})["absolute"]:
                relative = difference / max(abs(value), 1e-12)
                self.differences[term] = {"absolute": difference, "relative": relative}
        cosine = torch.nn.functional.cosine_similarity(*gradients.values(), dim=0)
        self.cosines.append(cosine.item())

    def _timed_step(self, name: str, progress: float) -> dict[str, float]:
        self.watch.seconds.clear()
        start = time.process_time()
        with self.watch.part("losses"):
            terms = self.loops[name].step(progress)
        self.processor_seconds[name].append(time.process_time() - start)
        self.parts[name].append(Counter(self.watch.seconds))
        return terms

    @torch.no_grad()
    def _final_view(self, loop: EditLoop) -> float:
        field = loop.edited.fused_field()
        self.watch.seconds.clear()
        with self.watch.part("other"):
            camera, exact = self.case.target.views[0].camera, loop.options.exact
            source = view_source(loop.edited, camera, exact=exact)
            source.fused(field)
            _ = source.output  # rendered when asked for
        return sum(self.watch.seconds.values())


def measure_step(words: dict[str, str], guidance: Guidance | None = None) -> dict[str, Any]:
    """Take the first step of a loop and return what its parts took."""
    case = make_case(words, guidance)
    watch = Parts(torch.device(words["device"]), with_operations=True)
    watch_case(watch, case)
    weights = {"generator": case.portrait.generator, "prior": case.target.guidance}
    for name, module in weights.items():
        watch.memory.add((*module.parameters(), *module.buffers()), name)
    with watch.counting("losses"):
        loop = case.make_loop(exact=False)
        watch_loop(watch, loop)
        before = watch.memory.live()
        watch.restart()
        loop.step(0.0)
    source = loop.source_views[0]
    share = len(source.index) / source.values.depths.shape[1]
    return {
        "before_gib": digits(before / 2**30),
        "share_of_rays_reached": digits(share),
        **watch.summary(),
    }


def peak_gib(words: dict[str, str], exact: bool) -> dict[str, float]:
    """Take one step in this process and return its largest memory, before and after that."""

    def peak() -> float:
        if words["device"] == "cuda":
            return round(torch.cuda.max_memory_allocated() / 2**30, 2)
        return round(peak_memory_gib(), 2)

    case = make_case(words)
    before = peak()
    case.make_loop(exact=exact).step(0.0)
    return {"loaded": before, "step": peak()}


def measure_edits(words: dict[str, str]) -> dict[str, Any]:
    """Measure a step of each variant of preset=sd15, each in a process of its own."""
    edits = {}
    for name in words["edits"].split(","):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            edits[name] = pool.apply(_measure_edit, (words | {"edits": name},))
        print(name, edits[name], flush=True)
    return {
        "command": _command(),
        **{
            name: words[name]
            for name in ("preset", "precision", "checkpointing", "region", "denoising_steps")
        },
        "edits": edits,
        **describe_machine(torch.device(words["device"])),
    }


def _measure_edit(words: dict[str, str]) -> dict[str, Any]:
    measured = measure_step(words)
    if words["edits"] == "denoised":
        taken = measured["parts"]["denoise"]
        given = _prior_options(words).distillation.denoised.num_denoising_steps
        more = given / int(words["denoising_steps"]) - 1
        measured[f"computed_with_{given}_denoising_steps"] = {
            name: round(measured[name] + more * taken[name], 2) for name in ("seconds", "tflop")
        }
    return measured | {"peak_rss_gib": round(peak_memory_gib(), 2)}


def _command() -> str:
    return " ".join(["python", "benchmarks/bench_edit.py", *sys.argv[1:]])


def main() -> None:
    """Compare both ways here, and measure the memory of each in a process of its own."""
    words = read_words(DEFAULTS)
    if words["preset"] == "sd15":
        report(measure_edits(words), words["output"])
        return
    peaks = {}
    # First, while this process is small: a child's peak begins with its parent's.
    for name in WAYS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks[name] = pool.apply(peak_gib, (words, name == "exact"))
    case = make_case(words)
    comparison = Comparison(case, torch.device(words["device"]))
    for _ in range(int(words["runs"])):
        comparison.run(int(words["steps"]))
    config = case.portrait.generator.config
    seconds = {name: comparison.seconds(name) for name in WAYS}
    document = {
        "command": _command(),
        "preset": words["preset"],
        "neural_resolution": config.neural_rendering_resolution,
        "resolution": config.resolution,
        "share_of_rays_reached": round(comparison.reached(), 3),
        "seconds_exact": seconds["exact"]["step"],
        "seconds_fast": seconds["fast"]["step"],
        "speedup": round(seconds["exact"]["step"] / seconds["fast"]["step"], 2),
        "processor_speedup": round(seconds["exact"]["processor"] / seconds["fast"]["processor"], 2),
        "parts": seconds,
        "largest_differences": comparison.differences,
        "least_gradient_cosine": min(comparison.cosines),
        "peak_rss_gib" if words["device"] == "cpu" else "peak_gpu_gib": peaks,
        "torch": torch.__version__,
        "processor": cpu_name(),
        "device": torch.cuda.get_device_name() if words["device"] == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
    }
    report(document, words["output"])


if __name__ == "__main__":
    main()
