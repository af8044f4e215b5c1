"""Progress of a run: status lines, stats.jsonl, TensorBoard, images, summary.html."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import summary
from tqdm import tqdm

from mate3d.errors import UserError
from mate3d.outputs.visualize import to_uint8
from torch_utils.distributed import all_reduce_sum, broadcast_object, world
from torch_utils.memory import peak_memory_bytes
from training.run_folder.event_file import EventFile
from training.run_folder.grids import save_grids
from training.run_folder.json_lines import STATS_FILE, JsonLines
from training.run_folder.summary import format_duration, write_summary

_logger = logging.getLogger(__name__)

# TensorBoard's page of hyper-parameters compares runs by these values, where measured.
COMPARED_VALUES = (
    "Metrics/fid_procedural",
    "Metrics/fid_inception",
    "Metrics/kid_procedural",
    "Metrics/kid_inception",
    "Metrics/miou",
    "Metrics/eikonal_residual",
    "Loss/G/loss",
    "Loss/D/loss",
)
# The time left is estimated from the speed over this many ticks.
_ETA_TICKS = 5
_HISTOGRAM_BINS = 64
_BAR_FORMAT = "{percentage:3.0f} % |{bar}| {rate_fmt}, {remaining} left"


class Monitor:
    """Collects values between ticks and writes their means.

    A full disk does not stop the run: one warning says so, and records of values are kept in memory
    until they can be written.

    With several processes, all of them record and tick, and means are taken over all of them. Only
    the main process writes, and only values that it recorded too.

    Args:
        run_folder: Receives stats.jsonl, event files, samples/ and summary.html.
        images_seen: Where the run starts or resumes; later records of an interrupted run are
            removed.
        total_images: Where the run ends.
        with_progress_bar: Show a bar on stderr if that is a terminal.
        is_main: Whether this process writes.
    """

    def __init__(
        self,
        run_folder: Path,
        *,
        images_seen: int,
        total_images: int,
        with_progress_bar: bool = True,
        is_main: bool = True,
    ):
        self._run_folder, self._is_main = run_folder, is_main
        self._total_images = total_images
        self._stats = JsonLines(run_folder / STATS_FILE)
        self._failing: set[str] = set()
        self._bar = tqdm(
            total=total_images,
            initial=images_seen,
            unit="img",
            dynamic_ncols=True,
            bar_format=_BAR_FORMAT,
            # None: no bar in a log.
            disable=None if with_progress_bar and is_main else True,
        )
        self._start_time = time.monotonic()
        self._start_from(images_seen)

    def _start_from(self, images_seen: int) -> None:
        self._sums: dict[str, tuple[Tensor | float, int]] = {}
        now = time.monotonic()
        self._ticks = deque([(now, images_seen)], maxlen=_ETA_TICKS + 1)
        if self._is_main:
            self._write(STATS_FILE, self._stats.rewind, images_seen)
            self._events = EventFile(self._run_folder, purge_step=images_seen + 1)

    def rewind(self, images_seen: int) -> None:
        """Discard the records after the state that a rollback returns to."""
        self._start_from(images_seen)
        self._bar.n = images_seen
        self._bar.refresh()

    def record(self, values: Mapping[str, Tensor | float]) -> None:
        """Add values to the means of this tick; each entry of a tensor counts."""
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            if isinstance(value, Tensor):
                # Read only at the tick, because each read waits for the GPU.
                self._sums[name] = (total + value.detach().double().sum(), count + value.numel())
            else:
                self._sums[name] = (total + value, count + 1)

    def advance(self, images_seen: int) -> None:
        """Move the progress bar."""
        self._bar.update(images_seen - self._bar.n)

    def tick(self, images_seen: int, position: str | None = None) -> dict[str, float]:
        """Write the means since the last tick, log one status line, and return what was written.

        All processes call this together.

        Args:
            images_seen: Images that all processes together have used.
            position: Where the run is, for the status line; by default thousands of images.
        """
        stats = self._means() | self._timing(images_seen) | _resources()
        self._sums = {}
        self.add_values(stats, images_seen)
        if self._is_main:
            _logger.info(
                "%s  %.2f img/s  %s left",
                position or f"kimg {images_seen / 1000:.2f}",
                stats["Timing/images_per_sec"],
                format_duration(stats["Timing/eta_sec"]),
            )
        return stats

    def add_values(self, values: Mapping[str, float], images_seen: int) -> None:
        """Write values that are not means over a tick, such as metrics of a snapshot."""
        if self._is_main and values:
            self._write(STATS_FILE, self._stats.write, {"images_seen": images_seen, **values})
            scalars = [summary.scalar(name, value) for name, value in values.items()]
            self._write("events", self._events.add, scalars, images_seen)

    def add_grids(
        self,
        grids: Mapping[str, Tensor],  # name -> [3, H, W] in [-1, 1]
        images_seen: int,
    ) -> None:
        """Write grids to samples/ and show them in TensorBoard."""
        if self._is_main:
            self._write("samples", save_grids, self._run_folder / "samples", grids, images_seen)
            pictures = [
                summary.image(f"samples/{name}", to_uint8(grid), dataformats="HWC")
                for name, grid in grids.items()
            ]
            self._write("events", self._events.add, pictures, images_seen)

    def add_histograms(
        self,
        histograms: Mapping[str, Tensor],  # name -> any shape
        images_seen: int,
    ) -> None:
        """Show the distribution of values in TensorBoard; non-finite ones are left out."""
        if self._is_main:
            finite = {
                name: values[torch.isfinite(values)].detach().double().cpu().numpy()
                for name, values in histograms.items()
            }
            summaries = [
                summary.histogram(name, values, _HISTOGRAM_BINS)
                for name, values in finite.items()
                if len(values) > 0
            ]
            self._write("events", self._events.add, summaries, images_seen)

    def add_hparams(self, values: Mapping[str, object]) -> None:
        """Write options by dotted names, other values as text, for TensorBoard's HParams page."""
        if self._is_main:
            plain = {
                name: value if isinstance(value, str | bool | int | float) else str(value)
                for name, value in values.items()
            }
            summaries = summary.hparams(plain, dict.fromkeys(COMPARED_VALUES, 0.0))
            self._write("events", self._events.add, summaries, None)

    def write_summary(self, command: str = "") -> None:
        """Write summary.html again; see `training.run_folder.summary.write_summary`."""
        if self._is_main:
            self._write("summary.html", write_summary, self._run_folder, command)

    def close(self) -> None:
        """Finish the bar, and write the records still waiting for disk space."""
        self._bar.close()
        if self._is_main:
            self._write(STATS_FILE, self._stats.flush)
            self._write("events", self._events.flush)

    def _means(self) -> dict[str, float]:
        names = broadcast_object(sorted(self._sums))
        own = [[float(part) for part in self._sums.get(name, (0.0, 0))] for name in names]
        sums = all_reduce_sum(torch.tensor(own, dtype=torch.float64).view(-1, 2))
        return dict(zip(names, (sums[:, 0] / sums[:, 1]).tolist(), strict=True))

    def _timing(self, images_seen: int) -> dict[str, float]:
        now = time.monotonic()
        (last_time, last_images), (first_time, first_images) = self._ticks[-1], self._ticks[0]
        self._ticks.append((now, images_seen))
        seconds, images = now - last_time, images_seen - last_images
        left = max(self._total_images - images_seen, 0)
        pace = (now - first_time) / max(images_seen - first_images, 1)
        return {
            "Progress/kimg": images_seen / 1000,
            "Timing/total_sec": now - self._start_time,
            "Timing/sec_per_kimg": 1000 * seconds / images if images else 0.0,
            "Timing/images_per_sec": images / seconds if seconds else 0.0,
            "Timing/eta_sec": left * pace,
        }

    def _write(self, what: str, write: Callable[..., object], *arguments: object) -> None:
        """Write, or warn once that it failed, until everything can be written again."""
        try:
            write(*arguments)
        except (OSError, UserError) as error:
            if not self._failing:
                reason = getattr(error, "strerror", None) or error
                _logger.warning(
                    "cannot write logs to %s (%s: %s); training continues, writing them later",
                    self._run_folder,
                    what,
                    reason,
                )
            self._failing.add(what)
            return
        if what in self._failing:
            self._failing.remove(what)
            if not self._failing:
                _logger.info("writing logs to %s again", self._run_folder)


def _resources() -> dict[str, float]:
    """Return memory in GiB if known, the maximum over all processes."""
    peak = peak_memory_bytes()
    own = {} if peak is None else {"Resources/peak_memory_gib": peak / 2**30}
    if torch.cuda.is_available():
        own["Resources/gpu_memory_gib"] = torch.cuda.memory_reserved() / 2**30
        own["Resources/peak_gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    place = world()
    table = torch.zeros(place.size, len(own), dtype=torch.float64)
    table[place.rank] = torch.tensor(list(own.values()), dtype=torch.float64)
    return dict(zip(own, all_reduce_sum(table).amax(dim=0).tolist(), strict=True))
