"""TensorBoard's event file, written at once: no thread that dies silently when the disk is full."""

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import summary

from training.run_folder.appended_file import AppendedFile

_HISTOGRAM_BINS = 64


class EventFile:
    """Scalars, pictures, histograms and hyper-parameters in a new event file of a run folder.

    Every method raises OSError if the disk is full; what it wrote then waits for the next call.

    Args:
        folder: The run folder.
        purge_step: TensorBoard hides what earlier files of the folder hold from this step on.
    """

    def __init__(self, folder: Path, *, purge_step: int):
        # The time orders the files of a run; nanoseconds tell apart those of one process.
        name = f"events.out.tfevents.{time.time():.9f}.{socket.gethostname()}.{os.getpid()}"
        self._file = AppendedFile(folder / name)
        start = Event(
            wall_time=time.time(),
            step=purge_step,
            session_log=SessionLog(status=SessionLog.START),
        )
        version = Event(wall_time=time.time(), file_version="brain.Event:2")
        self._first = _record(version) + _record(start)

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""
        self._append([summary.scalar(name, value) for name, value in values.items()], step)

    def add_picture(
        self,
        name: str,
        picture: Tensor,  # [3, H, W] in [-1, 1]
        step: int,
    ) -> None:
        """Add a picture."""
        pixels = ((picture.detach().float().cpu() + 1) / 2).clamp(0, 1)
        self._append([summary.image(name, pixels, dataformats="CHW")], step)

    def add_histogram(
        self,
        name: str,
        values: Tensor,  # any shape
        step: int,
    ) -> None:
        """Add a histogram of the finite values; nothing if there are none."""
        numbers = values.detach().double().flatten().cpu()
        numbers = numbers[torch.isfinite(numbers)]
        if len(numbers) > 0:
            self._append([summary.histogram(name, numbers.numpy(), _HISTOGRAM_BINS)], step)

    def add_hparams(
        self, values: Mapping[str, str | float | bool], metric_names: tuple[str, ...]
    ) -> None:
        """Describe the run to TensorBoard's page of hyper-parameters.

        Args:
            values: One number, word or truth value an option.
            metric_names: Curves that the page compares runs by.
        """
        self._append(summary.hparams(dict(values), dict.fromkeys(metric_names, 0.0)), None)

    def _append(self, summaries: list[Summary] | tuple[Summary, ...], step: int | None) -> None:
        events = [Event(wall_time=time.time(), step=step, summary=one) for one in summaries]
        head, self._first = self._first, b""
        self._file.append(head + b"".join(map(_record, events)))

    def flush(self) -> None:
        """Write what waits."""
        self._file.flush()


def _record(event: Event) -> bytes:
    """Return an event in TensorFlow's record format."""
    file = io.BytesIO()
    RecordWriter(file).write(event.SerializeToString())
    return file.getvalue()
