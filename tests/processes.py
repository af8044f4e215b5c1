"""Run a function in a process of its own that is killed, or that finds the disk full."""

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest
import torch

from tests.torch_utils.distributed_processes import fork_processes

_FORK = multiprocessing.get_context("fork")
# Of unshare(2): mounts and users of one's own.
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000


def killed_at_line(function: Callable[[], object], moment: int, *modules: ModuleType) -> bool:
    """Run a function in a forked process that SIGKILL ends at the n-th line run in some modules.

    Returns:
        Whether it was killed; otherwise it ended before.
    """
    files, count = {module.__file__ for module in modules}, 0

    def trace(frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    def run() -> None:
        sys.settrace(trace)
        function()

    return _was_killed(_start(run))


def killed_after(function: Callable[[], object], seconds: float) -> bool:
    """Run a function in a forked process that SIGKILL ends after a time."""
    process = _start(function)
    time.sleep(seconds)
    process.kill()
    return _was_killed(process)


def error_with_file_limit(function: Callable[[], object], num_bytes: int) -> str:
    """Return the error of a function in a forked process whose files cannot grow beyond a size."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

    return _error_of(function, limit)


def on_small_disk(function: Callable[[], object], folder: Path, *, size: str) -> str:
    """Return the error of a function in a forked process with a disk of its own at `folder`.

    Skips the test where the system lets users mount nothing.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def mount() -> None:
        user, group = os.getuid(), os.getgid()
        assert libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER) == 0
        for name, text in (
            ("uid_map", f"0 {user} 1"),
            ("setgroups", "deny"),
            ("gid_map", f"0 {group} 1"),
        ):
            Path("/proc/self", name).write_text(text)
        assert libc.mount(b"none", bytes(folder), b"tmpfs", 0, f"size={size}".encode()) == 0

    if _error_of(lambda: None, mount):
        pytest.skip("mounting needs user namespaces")
    return _error_of(function, mount)


def run_launched(function: Callable[[], object], size: int = 2) -> None:
    """Run a function in forked processes at the same time that torchrun seems to have launched."""
    for result in fork_processes(function, size):
        assert result.returncode == 0, result.stderr


def _error_of(function: Callable[[], object], prepare: Callable[[], object]) -> str:
    reader, writer = _FORK.Pipe(duplex=False)

    def run() -> None:
        try:
            prepare()
            function()
        except Exception as error:
            writer.send(f"{type(error).__name__}: {error}")
        else:
            writer.send("")

    process = _start(run)
    message = reader.recv()
    assert not _was_killed(process)
    return message


def _start(function: Callable[[], object]) -> BaseProcess:
    def run() -> None:
        # The parent's other threads are not here, but OpenMP would wait for them.
        torch.set_num_threads(1)
        function()

    process = _FORK.Process(target=run)
    process.start()
    return process


def _was_killed(process: BaseProcess) -> bool:
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0
