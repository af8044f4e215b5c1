"""What the benchmarks share: words of the command line, a stopwatch, results as JSON."""

import json
import math
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from torch_utils.memory import peak_memory_bytes


def read_words(defaults: Mapping[str, str]) -> dict[str, str]:
    """Return the defaults changed by the command line's name=value words."""
    options = dict(defaults)
    for word in sys.argv[1:]:
        name, equals, value = word.partition("=")
        if not equals or name not in options:
            sys.exit(f"error: cannot read '{word}'; options are: {', '.join(defaults)}")
        options[name] = value
    return options


def report(document: dict[str, Any], output: str) -> None:
    """Print a result as one line of JSON, and write it to a file if one is named."""
    if output:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document))


class Stopwatch:
    """Adds up the time of calls, the device's work included; use it as a context.

    Args:
        device: Whose work counts.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds = self.processor_seconds = 0.0

    def __enter__(self) -> "Stopwatch":
        self._synchronize()
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._synchronize()
        self.seconds += time.perf_counter() - self._start[0]
        self.processor_seconds += time.process_time() - self._start[1]

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def compare_seconds(watches: Mapping[str, Sequence[Stopwatch]]) -> dict[str, Any]:
    """Return each way's least seconds, and how many times as fast as the release's order it is."""
    figures = {}
    for kind in ("seconds", "processor_seconds"):
        least = {way: min(getattr(watch, kind) for watch in each) for way, each in watches.items()}
        figures |= {f"{kind}_{way}": round(value, 3) for way, value in least.items()}
        release = least.pop("release_order")
        figures[f"times_as_fast_by_{kind}"] = {
            way: round(release / value, 2) for way, value in least.items()
        }
    return figures


def compare_memory(peaks: Mapping[str, float], device: torch.device) -> dict[str, Any]:
    """Return each way's peak memory in GiB, and what share of the release's order's it is."""
    kind = "peak_device_memory_gib" if device.type == "cuda" else "peak_rss_gib"
    release = peaks["release_order"]
    return {
        **{f"{kind}_{way}": round(peak, 2) for way, peak in peaks.items()},
        "share_of_memory": {
            way: round(peak / release, 2) for way, peak in peaks.items() if way != "release_order"
        },
    }


def in_new_process(function: Callable[..., Any], *args: Any) -> Any:
    """Return a function's result from a process of its own, which measures its memory alone."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool:
            sys.exit("error: the system ended a process of the benchmark; it may need more memory")


def peak_memory_gib() -> float:
    """Return the peak resident memory of this process, in GiB; nan if unknown."""
    return (peak_memory_bytes() or math.nan) / 2**30


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what figures were measured on, for the results."""
    is_cuda = device.type == "cuda"
    return {
        "machine": torch.cuda.get_device_name(device) if is_cuda else cpu_name(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "torch_version": torch.__version__,
    }


def cpu_name() -> str:
    """Return the processor's name where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
