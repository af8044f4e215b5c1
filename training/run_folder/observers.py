"""What watches a run: a stopwatch, PyTorch's profiler, Weights & Biases."""

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tensorboard.summary.writer import event_file_writer
from torch import profiler

from mate3d.errors import UserError
from torch_utils.distributed import is_main


class Stopwatch:
    """Splits time into parts: by events on a GPU, which works behind the host, else by a clock."""

    def __init__(self, device: torch.device):
        self._is_cuda = device.type == "cuda"
        self._laps = [("", self._now())]

    def lap(self, part: str) -> None:
        """Count the time since the last call for a part."""
        self._laps.append((part, self._now()))

    def read(self) -> dict[str, float]:
        """Return the seconds of each part since the last reading; waits for the last lap."""
        if self._is_cuda:
            self._laps[-1][1].synchronize()
        seconds: Counter[str] = Counter()
        for (_, start), (part, end) in pairwise(self._laps):
            seconds[part] += start.elapsed_time(end) / 1000 if self._is_cuda else end - start
        self._laps = self._laps[-1:]
        return dict(seconds)

    def _now(self) -> "float | torch.cuda.Event":
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def profiling(run_folder: Path, num_iterations: int) -> AbstractContextManager[Any]:
    """Return a context whose value, if not None, has a method `step` to call after each iteration.

    The trace of the iterations goes to `profile/`, one file per process, in Chrome's format.
    """
    if num_iterations == 0:
        return nullcontext()
    return profiler.profile(
        # Caches fill and kernels are chosen in the first iterations.
        schedule=profiler.schedule(wait=3, warmup=2, active=num_iterations, repeat=1),
        on_trace_ready=profiler.tensorboard_trace_handler(str(run_folder / "profile")),
        acc_events=True,
    )


def mirrored_online(
    run_folder: Path, project: str | None, options: Mapping[str, Any]
) -> AbstractContextManager[Any]:
    """Return a context that sends what TensorBoard's files receive to Weights & Biases.

    Raises:
        UserError: If it is not installed, or refuses.
    """
    if project is None or not is_main():
        return nullcontext()
    folder = run_folder.resolve()
    try:
        import wandb

        # Within the run's own folder, it would mirror its own copies again and again.
        names = {"project": project, "name": folder.name, "dir": folder.parent}
        run = wandb.init(**names, config=dict(options), sync_tensorboard=True)
    except Exception as error:
        # Of types that cannot be named where it is not installed.
        raise UserError(
            f"train.wandb={project}: {error}; install it with pip install 'mate3d[wandb]', then "
            "run `wandb login` or set WANDB_MODE=offline"
        ) from error
    # It watches the folders of TensorBoard's own writers.
    event_file_writer.EventFileWriter(str(folder)).close()
    return run
