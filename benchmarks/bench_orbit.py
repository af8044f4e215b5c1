"""Time an orbit from one set of planes against as many single images.

    python benchmarks/bench_orbit.py generator=demo_cat frames=60 runs=3
    python benchmarks/bench_orbit.py preset=face512 frames=4 output=results.json

A single image pays for mapping and planes, as calling the generator for each view does; the orbit
makes them once. Both run the same renderer on the same cameras. They alternate, frame by frame, in
one warm process, so that what else the machine does meets both alike; medians are over the runs.
Processor time is what this process alone used, and steadier where others compute too. The last line
is one JSON object; `output` is a file for it.
"""

import statistics
import sys
from typing import Any

import torch
from common import Stopwatch, describe_machine, read_words, report

from mate3d.cameras import ViewOptions, make_views
from mate3d.checkpoint import load_generator
from mate3d.generation.rendering import Head, HeadMaker, Precision, ViewRenderer
from mate3d.generator import Generator, GeneratorConfig

SEED = 0
# Random weights of the published sizes; time does not depend on the values.
PRESETS = {"face512": GeneratorConfig(label_set="celebamask_hq")}
DEFAULTS = {
    "generator": "demo_cat",
    "preset": "",
    "frames": "60",
    "runs": "3",
    "device": "cpu",
    "output": "",
}


def make_generator(options: dict[str, str]) -> Generator:
    """Load a checkpoint, or build a preset with random weights."""
    if not options["preset"]:
        return load_generator(options["generator"], options["device"])
    torch.manual_seed(SEED)
    generator = Generator(PRESETS[options["preset"]]).to(options["device"])
    return generator.eval().requires_grad_(False)


def measure(generator: Generator, num_frames: int) -> dict[str, float]:
    """Return the seconds of one orbit, of as many singles, and of the planes in those."""
    device = next(generator.parameters()).device
    precision = Precision(device)
    config = generator.config
    maker = HeadMaker(generator, precision, 0.7)
    renderer = ViewRenderer(
        generator, precision, config.rendering, config.neural_rendering_resolution
    )
    cameras = [
        view.camera(config.camera_rig)
        for view in make_views(ViewOptions(path="orbit", num_frames=num_frames))
    ]
    orbit, singles, planes = Stopwatch(device), Stopwatch(device), Stopwatch(device)
    with orbit:
        orbit_head: Head = maker.from_seed(SEED)
    for camera in cameras:
        with orbit:
            frame = renderer.render(orbit_head, camera).image
        with singles:
            with planes:
                head = maker.from_seed(SEED)
            image = renderer.render(head, camera).image
        assert torch.equal(frame, image), "the orbit's frame is not the single image"
    return {
        "seconds_orbit": orbit.seconds,
        "seconds_singles": singles.seconds,
        "seconds_planes_of_singles": planes.seconds,
        "processor_seconds_orbit": orbit.processor_seconds,
        "processor_seconds_singles": singles.processor_seconds,
    }


def summarize(runs: list[dict[str, float]], options: dict[str, str]) -> dict[str, Any]:
    """Return medians, their ratio and what they were measured on."""
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    ratios = [run["seconds_orbit"] / run["seconds_singles"] for run in runs]
    own = [run["processor_seconds_orbit"] / run["processor_seconds_singles"] for run in runs]
    shares = [run["seconds_planes_of_singles"] / run["seconds_singles"] for run in runs]
    return {
        "generator": options["preset"] or options["generator"],
        "frames": int(options["frames"]),
        "runs": len(runs),
        **{name: round(value, 4) for name, value in medians.items()},
        "ratio": round(statistics.median(ratios), 4),
        "ratio_of_processor_time": round(statistics.median(own), 4),
        "ratio_of_each_run": [round(ratio, 4) for ratio in ratios],
        "mapping_and_planes_share_of_single": round(statistics.median(shares), 4),
        **describe_machine(torch.device(options["device"])),
    }


def main() -> None:
    """Measure with the options of the command line."""
    options = read_words(DEFAULTS)
    if options["preset"] and options["preset"] not in PRESETS:
        sys.exit(f"error: preset={options['preset']}; use one of: {', '.join(PRESETS)}")
    generator = make_generator(options)
    num_frames = int(options["frames"])
    measure(generator, 2)
    runs = []
    for index in range(int(options["runs"])):
        runs.append(measure(generator, num_frames))
        print(f"run {index + 1}: {runs[-1]}", flush=True)
    result = summarize(runs, options)
    report(result, options["output"])


if __name__ == "__main__":
    main()
