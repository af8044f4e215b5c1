"""TensorBoard's event file, written without a thread, which would die silently on a full disk."""

import io
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from mate3d.atomic import AppendedFile


class EventFile(AppendedFile):
    """A new file in a run folder for summaries of `torch.utils.tensorboard.summary`.

    Args:
        purge_step: TensorBoard hides entries of earlier files from this step on.
    """

    def __init__(self, folder: Path, *, purge_step: int):
        # The time orders the files of a run; nanoseconds distinguish files of one process.
        seconds, rest = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds}.{socket.gethostname()}.{rest:09d}.{os.getpid()}"
        super().__init__(folder / name)
        self._first = _records(
            Event(wall_time=time.time(), file_version="brain.Event:2"),
            Event(
                wall_time=time.time(),
                step=purge_step,
                session_log=SessionLog(status=SessionLog.START),
            ),
        )

    def add(self, summaries: Iterable[Summary], step: int | None) -> None:
        """Append summaries of one step.

        Raises:
            OSError: If the disk is full; they wait for the next call.
        """
        events = [Event(wall_time=time.time(), step=step, summary=one) for one in summaries]
        first, self._first = self._first, b""
        self.append(first + _records(*events))


def _records(*events: Event) -> bytes:
    """Return events in TensorFlow's record format."""
    file = io.BytesIO()
    writer = RecordWriter(file)
    for event in events:
        writer.write(event.SerializeToString())
    return file.getvalue()
