"""Progress of a run: one status line a tick, stats.jsonl, TensorBoard and a progress bar."""

import json
import logging
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

_logger = logging.getLogger(__name__)

STATUS_LOSSES = {
    "G": "Loss/G/loss",
    "D": "Loss/D/loss",
    "Ds": "Loss/D/loss_semantic",
    "eik": "Loss/G_eikonal/loss",
    "sphere": "Loss/sphere_init/initloss",
    "warm sdf": "Loss/warm_start/sdf",
}


def peak_memory_gib() -> float:
    """Return the peak resident memory of this process in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, else KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Monitor:
    """Collects values between ticks and writes their means.

    Args:
        run_folder: Receives stats.jsonl and TensorBoard event files.
        images_seen: Where the run starts or resumes; later records of an interrupted run go.
        total_images: Where the run ends.
        with_progress_bar: Show a bar on stderr.
    """

    def __init__(
        self,
        run_folder: Path,
        *,
        images_seen: int,
        total_images: int,
        with_progress_bar: bool = True,
    ):
        self._stats_path = run_folder / "stats.jsonl"
        _drop_later_records(self._stats_path, images_seen)
        purge_step = images_seen + 1 if images_seen else None
        self._writer = SummaryWriter(str(run_folder), purge_step=purge_step)
        self._bar = tqdm(
            total=total_images,
            initial=images_seen,
            unit="img",
            dynamic_ncols=True,
            disable=not with_progress_bar,
        )
        self._sums: dict[str, tuple[float, int]] = {}
        self._start_time = self._tick_time = time.monotonic()
        self._tick_images = images_seen

    def record(self, values: Mapping[str, Tensor | float]) -> None:
        """Add values to the means of this tick; a tensor counts each of its entries."""
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            if isinstance(value, Tensor):
                value, weight = float(value.detach().double().sum()), value.numel()
            else:
                weight = 1
            self._sums[name] = (total + value, count + weight)

    def advance(self, images_seen: int) -> None:
        """Move the progress bar."""
        self._bar.update(images_seen - self._bar.n)

    def tick(self, images_seen: int) -> dict[str, float]:
        """Write the means since the last tick, log one status line, and return what was written."""
        now = time.monotonic()
        kimg = (images_seen - self._tick_images) / 1000
        stats = {name: total / count for name, (total, count) in sorted(self._sums.items())}
        stats["Progress/kimg"] = images_seen / 1000
        stats["Timing/total_sec"] = now - self._start_time
        stats["Timing/sec_per_kimg"] = (now - self._tick_time) / kimg if kimg else 0.0
        stats["Resources/peak_memory_gib"] = peak_memory_gib()
        if torch.cuda.is_available():
            stats["Resources/peak_gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        for name, value in stats.items():
            self._writer.add_scalar(name, value, images_seen)
        self._writer.flush()
        with self._stats_path.open("a") as file:
            file.write(json.dumps({"images_seen": images_seen, **stats}) + "\n")
        _logger.info(status_line(stats))
        self._sums, self._tick_time, self._tick_images = {}, now, images_seen
        return stats

    def add_picture(
        self,
        name: str,
        picture: Tensor,  # [3, H, W] in [-1, 1]
        images_seen: int,
    ) -> None:
        """Show a picture in TensorBoard."""
        self._writer.add_image(name, ((picture + 1) / 2).clamp(0, 1), images_seen)

    def close(self) -> None:
        """Finish the bar and the event file."""
        self._bar.close()
        self._writer.close()


def status_line(stats: Mapping[str, float]) -> str:
    """Return the line a user watches: progress, speed, memory, main losses."""
    memory = stats.get("Resources/peak_gpu_memory_gib", stats["Resources/peak_memory_gib"])
    parts = [
        f"kimg {stats['Progress/kimg']:8.2f}",
        f"s/kimg {stats['Timing/sec_per_kimg']:8.1f}",
        f"mem {memory:5.2f} GiB",
    ]
    parts += [f"{label} {stats[key]:.3f}" for label, key in STATUS_LOSSES.items() if key in stats]
    return "  ".join(parts)


def _drop_later_records(path: Path, images_seen: int) -> None:
    """Remove what an interrupted run wrote after the state that is resumed."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["images_seen"] > images_seen:
            break
        kept.append(line)
    path.write_text("".join(kept))
