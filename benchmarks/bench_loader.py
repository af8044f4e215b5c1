"""Time the loader against plain PIL decoding: `python benchmarks/bench_loader.py num_images=48`.

Writes one generated dataset as folder, zip and shards, then reads it in one process, rounds of
all cases interleaved, and reports medians of processor time. "PIL" opens the same PNG files of the
folder, image and mask, and does nothing else; with flips it also mirrors, with another size it also
resizes both. Prints a table and, as the last line, JSON. Words it takes:

    num_images=48          samples of the dataset
    file_resolution=512    their side, pixels
    resolution=256         side of the cases that resize
    rounds=5               runs of each case
    output=                also write the JSON here, e.g. benchmarks/results/loader.json
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from common import describe_machine, read_words, report
from PIL import Image, ImageOps

from mate3d.cameras import make_camera
from mate3d.labels import CELEBAMASK_HQ
from training.data.dataset import PortraitDataset
from training.data.format import DatasetWriter, image_name
from training.data.loader import make_loader

DEFAULTS = {
    "num_images": "48",
    "file_resolution": "512",
    "resolution": "256",
    "rounds": "5",
    "output": "",
}
CONTAINERS = {"folder": ("folder", False), "zip": ("data.zip", False)}
CONTAINERS |= {"shards": ("shards", False), "streamed shards": ("shards", True)}
BATCH_SIZE = 4


def main() -> None:
    """Measure every case side by side."""
    options = read_words(DEFAULTS)
    num_images, resolution = int(options["num_images"]), int(options["resolution"])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        num_bytes = write_data(Path(folder), num_images, int(options["file_resolution"]))
        cases = {
            (treatment, container): run
            for treatment, size, with_flips in (
                ("as they are", None, False),
                ("flips", None, True),
                ("resized", resolution, False),
            )
            for container, run in make_cases(Path(folder), num_images, size, with_flips).items()
        }
        seconds = measure(cases, int(options["rounds"]))
    results = []
    for (treatment, container), value in seconds.items():
        plain = seconds[treatment, "PIL"]
        results.append(
            {
                "treatment": treatment,
                "source": container,
                "images_per_second": round(num_images / value, 1),
                "overhead_percent": round(100 * (value / plain - 1), 1),
            }
        )
        print("  ".join(f"{name} {result}" for name, result in results[-1].items()), flush=True)
    document = {
        "command": " ".join(["python", "benchmarks/bench_loader.py", *sys.argv[1:]]),
        **describe_machine(torch.device("cpu")),
        "options": {name: int(value) for name, value in options.items() if name != "output"},
        "kib_per_sample": round(num_bytes / num_images / 1024, 1),
        "results": results,
    }
    report(document, options["output"])


def write_data(folder: Path, num_images: int, side: int) -> int:
    """Write the same samples in every container and return the bytes of all images and masks."""
    writers = [
        DatasetWriter(folder / "folder", CELEBAMASK_HQ),
        DatasetWriter(folder / "data.zip", CELEBAMASK_HQ),
        DatasetWriter(folder / "shards", CELEBAMASK_HQ, shard_size=max(num_images // 4, 1)),
    ]
    for writer in writers:
        with writer:
            for index in range(num_images):
                image, label_map = make_portrait(index, side)
                camera = make_camera(yaw=index / num_images - 0.5)[0].tolist()
                writer.add(image_name(index), image, label_map, camera)
    return sum(path.stat().st_size for path in (folder / "folder").rglob("*.png"))


def make_portrait(
    seed: int, side: int
) -> tuple[np.ndarray, np.ndarray]:  # [side, side, 3] uint8, [side, side] uint8
    """Return smooth colours with fine noise, which PNG packs like a photo, and discs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    image = (smooth + rng.normal(0, 3, smooth.shape)).clip(0, 255).astype(np.uint8)
    rows, columns = np.mgrid[:side, :side] / side
    label_map = np.zeros((side, side), dtype=np.uint8)
    for label in range(1, CELEBAMASK_HQ.num_classes):
        row, column, radius = rng.uniform((0.2, 0.2, 0.03), (0.8, 0.8, 0.2))
        label_map[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = label
    return image, label_map


def make_cases(
    folder: Path, num_images: int, resolution: int | None, with_flips: bool
) -> dict[str, Callable[[], object]]:
    """Return what reads as many items as there are samples, by the name of what it reads."""
    names = [image_name(index) for index in range(num_images)]
    cases = {"PIL": partial(decode_plainly, folder / "folder", names, resolution, with_flips)}
    for source, (path, streaming) in CONTAINERS.items():
        dataset = PortraitDataset(folder / path, resolution=resolution, with_flips=with_flips)
        batches = make_loader(dataset, batch_size=BATCH_SIZE, streaming=streaming)
        cases[source] = partial(consume, batches, num_images // BATCH_SIZE)
    return cases


def decode_plainly(
    folder: Path, names: list[str], resolution: int | None, with_flips: bool
) -> None:
    """Decode images and masks with PIL alone; every second one is mirrored if asked."""
    filters = {"images": Image.Resampling.BICUBIC, "masks": Image.Resampling.NEAREST}
    for index, name in enumerate(names):
        for kind, resampling in filters.items():
            with Image.open(folder / kind / name) as image:
                image.load()
            if resolution is not None:
                image = image.resize((resolution, resolution), resampling)
            if with_flips and index % 2 == 1:
                ImageOps.mirror(image)


def consume(batches: Iterator[object], num_batches: int) -> None:
    """Take batches and drop them."""
    for _ in islice(batches, num_batches):
        pass


def measure(
    cases: dict[tuple[str, str], Callable[[], object]], rounds: int
) -> dict[tuple[str, str], float]:
    """Return the median seconds of each case, run in turn after one round to warm up."""
    seconds = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, run in cases.items():
            start = time.process_time()
            run()
            if number > 0:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
