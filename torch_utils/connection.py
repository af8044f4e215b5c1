"""Connection between the processes of a run: values from the main process, and joint failure.

If one process fails, all of them end soon, and only the first failure is shown.
"""

import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from torch_utils.launchers import DistributedError, World, launched_world

# How long the first process waits for the last one at startup.
_START_TIMEOUT = timedelta(minutes=15)
_WATCH_SECONDS = 0.5
# How long a process with a communication error waits for the process that caused it.
_BLAME_SECONDS = 2.0
# How long exiting processes wait for each other, so that the launcher does not kill one.
_LEAVE_SECONDS = 5.0
# About the maximum number of milliseconds that fits in 31 bits.
_FOREVER = timedelta(days=24)

T = TypeVar("T")


class Connection:
    """Opened by `connected`; use the functions of `torch_utils.distributed` instead.

    Args:
        place: Rank of this process.
        store: Store shared by all processes.
        report: See `connected`.
    """

    def __init__(self, place: World, store: dist.Store, report: Callable[[BaseException], int]):
        self.place, self.store = place, store
        self._report = report
        self._num_messages = 0
        # A store serves one thread at a time.
        self._own_store, self._watched_store = store.clone(), store.clone()
        self._own_store.set_timeout(_FOREVER)
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def share(self, make: Callable[[], T]) -> T:
        """Compute a value on the main process and return it on all, without a timeout."""
        key = f"run/message/{self._num_messages}"
        self._num_messages += 1
        if self.place.rank != 0:
            with talking():
                return pickle.loads(self._own_store.get(key))
        value = make()
        with talking():
            self._own_store.set(key, pickle.dumps(value))
        return value

    def fail(self, error: BaseException) -> NoReturn:
        """End all processes; if another failed first, exit silently with its code."""
        self._stop_watching()
        store, code = self._own_store, None
        # If the process that holds the store is gone, no process is left to notify.
        with suppress(RuntimeError):
            if store.add("run/failures", 1) > 1:
                self._follow(store)
            code = self._report(error)
            store.set("run/failure", str(code))
            _wait_for(store, "run/ended", self.place.size - 1)
            store.add("run/told", 1)
        self._exit(self._report(error) if code is None else code)

    def close(self) -> None:
        """Disconnect after success; the main process leaves last, since it may hold the store."""
        with talking():
            if self.place.rank == 0:
                _wait_for(self._own_store, "run/ended", self.place.size - 1, float("inf"))
            self._stop_watching()
            self._own_store.add("run/ended", 1)

    def _stop_watching(self) -> None:
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        """End this process if another has failed; it might otherwise wait for it forever."""
        while not self._ended.wait(_WATCH_SECONDS):
            try:
                if self._watched_store.check(["run/failure"]):
                    self._follow(self._watched_store)
            except RuntimeError:
                error = DistributedError("lost contact with the other processes: main process gone")
                self._exit(self._report(error))

    def _follow(self, store: dist.Store) -> NoReturn:
        """Exit silently, with the exit code of the process that failed first."""
        code = int(store.get("run/failure"))
        store.add("run/ended", 1)
        if self.place.rank == 0:
            _wait_for(store, "run/told", 1)
        self._exit(code)

    def _exit(self, code: int) -> NoReturn:
        """Exit the process from any thread."""
        if self.place.rank == 0:
            # Exit last: processes still waiting for this one would report it as gone.
            time.sleep(_WATCH_SECONDS)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait_for(
    store: dist.Store, counter: str, number: int, seconds: float = _LEAVE_SECONDS
) -> None:
    end = time.monotonic() + seconds
    while store.add(counter, 0) < number and time.monotonic() < end:
        time.sleep(0.1)


_connection: Connection | None = None


def current() -> Connection | None:
    """Return the open connection, or None for a single process."""
    return _connection


def _report_bug(error: BaseException) -> int:
    traceback.print_exception(error)
    return 1


@contextmanager
def connected(report: Callable[[BaseException], int] = _report_bug) -> Iterator[World]:
    """Connect the launched processes within the context; does nothing for a single process.

    Nested contexts share the outer connection. If an exception leaves the context on one process,
    all processes end within seconds.

    Args:
        report: Reports the first exception on its process and returns the exit code for all.

    Raises:
        DistributedError: If the processes cannot connect.
    """
    global _connection
    if _connection is not None:
        yield _connection.place
        return
    place = launched_world()
    if place.size == 1:
        yield place
        return
    with talking():
        store, _, _ = next(rendezvous("env://", place.rank, place.size, timeout=_START_TIMEOUT))
    _connection = Connection(place, store, report)
    try:
        yield place
        _connection.close()
    except BaseException as error:
        _connection.fail(error)
    finally:
        _connection = None


@contextmanager
def talking() -> Iterator[None]:
    """Raise PyTorch's communication errors as DistributedError."""
    try:
        yield
    except RuntimeError as error:
        # If another process failed first, it reports why and ends this one during the wait.
        time.sleep(_BLAME_SECONDS)
        reason = str(error).strip().split("\n", 1)[0]
        raise DistributedError(f"lost contact with the other processes: {reason}") from error
