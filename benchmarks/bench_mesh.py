"""Time meshes of a checkpoint: `python benchmarks/bench_mesh.py resolutions=128,256,512`.

Each mesh is made in a process of its own, evaluated near the surface ("auto") and everywhere
("dense"), one after the other. Prints a table and, as the last line, JSON. Words it takes:

    generator=demo_cat    checkpoint folder
    resolutions=128,256,512            grid points a side
    evaluations=auto,dense             which of the two
    device=cpu                         where distances are evaluated
    output=                            also write the JSON here, e.g. benchmarks/results/mesh.json
"""

import multiprocessing
import sys
import time

import torch
from common import describe_machine, peak_memory_gib, read_words, report

from mate3d.checkpoint import load_generator
from mate3d.network.mapping import latents_from_seeds
from mate3d.outputs.mesh import extract_mesh

DEFAULTS = {
    "generator": "demo_cat",
    "resolutions": "128,256,512",
    "evaluations": "auto,dense",
    "device": "cpu",
    "output": "",
}


def measure(folder: str, device: str, resolution: int, evaluation: str) -> dict[str, object]:
    """Make one mesh and return seconds, sizes and this process's peak memory."""
    generator = load_generator(folder, device)
    camera = generator.config.camera_rig.make_camera().to(device)
    latent = latents_from_seeds([0], generator.config.z_dim).to(device)
    with torch.no_grad():
        field = generator.make_field(generator.map(latent, camera))
    peak_before = peak_memory_gib()
    start, processor_start = time.perf_counter(), time.process_time()
    mesh = extract_mesh(field, generator.config.box_size, resolution, evaluation=evaluation)
    return {
        "resolution": resolution,
        "evaluation": evaluation,
        "seconds": round(time.perf_counter() - start, 2),
        "processor_seconds": round(time.process_time() - processor_start, 2),
        "peak_gib": round(peak_memory_gib(), 2),
        "peak_before_gib": round(peak_before, 2),
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "watertight": bool(mesh.is_watertight),
    }


def main() -> None:
    """Measure every case in a fresh process."""
    options = read_words(DEFAULTS)
    context = multiprocessing.get_context("spawn")
    results = []
    for resolution in options["resolutions"].split(","):
        for evaluation in options["evaluations"].split(","):
            with context.Pool(1) as pool:
                case = (options["generator"], options["device"], int(resolution), evaluation)
                results.append(pool.apply(measure, case))
            print("  ".join(f"{name} {value}" for name, value in results[-1].items()), flush=True)
    document = {
        "command": " ".join(["python", "benchmarks/bench_mesh.py", *sys.argv[1:]]),
        **describe_machine(torch.device(options["device"])),
        "results": results,
    }
    report(document, options["output"])


if __name__ == "__main__":
    main()
