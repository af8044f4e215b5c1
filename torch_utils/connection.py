"""The bond between the processes of one run: values of the main one, and common failure.

When one process fails, all end soon, and only the first failure is worth showing.
"""

import logging
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch.distributed as dist

from torch_utils.launchers import DistributedError, World, connect_store, launched_world

_POLL_SECONDS = 0.1
_WATCH_SECONDS = 0.5
# How long a process may go on by itself after another one failed.
_GRACE_SECONDS = 5.0
# How long failing processes wait for each other, so that no launcher kills one with a signal.
_LEAVE_SECONDS = 8.0

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class OtherProcessFailedError(Exception):
    """Another process of the run failed first and says why.

    Attributes:
        exit_code: What all processes end with.
    """

    def __init__(self, exit_code: int):
        super().__init__("another process failed")
        self.exit_code = exit_code


class Connection:
    """What `connected` opens; use the functions of `torch_utils.distributed` instead.

    Args:
        place: This process.
        store: Shared by all processes.
        exit_code: What an exception ends the processes with.
    """

    def __init__(self, place: World, store: dist.Store, exit_code: Callable[[BaseException], int]):
        self.place, self.store = place, store
        self._own_store = dist.PrefixStore("run", store)
        self._exit_code = exit_code
        self._num_messages = 0
        self._is_first_failure: bool | None = None
        self._ended = threading.Event()
        # A store answers one thread at a time.
        self._watched_store = dist.PrefixStore("run", store.clone())
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def share(self, make: Callable[[], T]) -> T:
        """Let the main process make a value and return it on all, however long it takes.

        Raises:
            Exception: Whatever `make` raised, on all processes.
        """
        key = f"message/{self._num_messages}"
        self._num_messages += 1
        if self.place.rank != 0:
            with talking():
                while not self._own_store.check([key]):
                    other = self._other_failure(self._own_store)
                    if other is not None:
                        raise other
                    time.sleep(_POLL_SECONDS)
                value, error = pickle.loads(self._own_store.get(key))
            if error is not None:
                raise error
            return value
        try:
            value = make()
        except Exception as error:
            with talking():
                self._own_store.set(key, pickle.dumps((None, _sendable(error))))
            raise
        with talking():
            self._own_store.set(key, pickle.dumps((value, None)))
        return value

    def fail(self, error: BaseException) -> None:
        """Tell the others, before they notice by themselves, unless one of them failed first."""
        if self._is_first_failure is not None:
            return
        try:
            self._is_first_failure = self._own_store.add("num_failures", 1) == 1
            if self._is_first_failure:
                self._own_store.set("failure", str(self._exit_code(error)))
        except RuntimeError:
            # The process that holds the store is gone, and cannot speak for itself.
            self._is_first_failure = True

    def close(self) -> None:
        """Leave; raise if another process failed first.

        Raises:
            OtherProcessFailedError: In place of this process's own failure.
        """
        self._ended.set()
        self._watcher.join()
        other = None
        try:
            if self._is_first_failure is not True:
                other = self._other_failure(self._own_store)
            has_failed = other is not None or self._is_first_failure is not None
            self._leave(self._own_store, has_failed=has_failed)
        except RuntimeError:
            _logger.debug("the process that holds the store is gone")
        if other is not None:
            raise other

    def _leave(self, store: dist.Store, *, has_failed: bool) -> None:
        if has_failed:
            store.add("left", 1)
            _wait_for(store, "left", self.place.size, _LEAVE_SECONDS)
        if self.place.rank != 0:
            store.add("gone", 1)
            return
        # This process may hold the store, so it goes last.
        seconds = _LEAVE_SECONDS if has_failed else float("inf")
        _wait_for(store, "gone", self.place.size - 1, seconds)

    def _other_failure(self, store: dist.Store) -> OtherProcessFailedError | None:
        if not store.check(["failure"]):
            return None
        return OtherProcessFailedError(int(store.get("failure")))

    def _watch(self) -> None:
        """End this process after another one failed: it may wait for that one for ever."""
        while not self._ended.wait(_WATCH_SECONDS):
            try:
                other = self._other_failure(self._watched_store)
                if other is None:
                    continue
                code, message = other.exit_code, None
            except RuntimeError:
                lost = DistributedError("lost contact with the main process")
                code, message = self._exit_code(lost), str(lost)
            if self._ended.wait(_GRACE_SECONDS):
                return
            if message is None:
                with suppress(RuntimeError):
                    self._leave(self._watched_store, has_failed=True)
            else:
                _logger.error("%s", message)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _wait_for(store: dist.Store, counter: str, number: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while store.add(counter, 0) < number and time.monotonic() < end:
        if end == float("inf") and store.check(["failure"]):
            end = time.monotonic() + _LEAVE_SECONDS
        time.sleep(_POLL_SECONDS)


_connection: Connection | None = None


def current() -> Connection | None:
    """Return the open connection, None for a process that is alone."""
    return _connection


def _one(_: BaseException) -> int:
    return 1


@contextmanager
def connected(exit_code: Callable[[BaseException], int] = _one) -> Iterator[World]:
    """Connect the launched processes while the context lasts; alone, do nothing.

    Inside another such context, that one is used. When one process leaves with an exception, the
    others do so within seconds, wherever they are.

    Args:
        exit_code: What an exception ends the processes with.

    Raises:
        DistributedError: If the processes do not find each other.
        OtherProcessFailedError: In place of an exception that came after another process's.
    """
    global _connection
    if _connection is not None:
        yield _connection.place
        return
    place = launched_world()
    if place.size == 1:
        yield place
        return
    _connection = Connection(place, connect_store(place), exit_code)
    try:
        yield place
    except BaseException as error:
        if not (isinstance(error, SystemExit) and not error.code):
            _connection.fail(error)
        raise
    finally:
        connection, _connection = _connection, None
        connection.close()


@contextmanager
def talking() -> Iterator[None]:
    """Name the errors of PyTorch's communication.

    Raises:
        DistributedError: In place of a RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise DistributedError(f"lost contact with other processes: {reason}") from error


def _sendable(error: Exception) -> Exception:
    """Return the exception, or one that says the same if it cannot travel."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
