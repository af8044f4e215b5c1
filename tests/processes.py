"""Run a function in a process of its own that is killed, or that finds the disk full."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

import pytest
import torch


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

    return _wait(_fork(run))


def killed_after(function: Callable[[], object], seconds: float) -> bool:
    """Run a function in a forked process that SIGKILL ends after a time."""
    child = _fork(function)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return _wait(child)


def error_with_file_limit(function: Callable[[], object], num_bytes: int) -> str:
    """Return the error of a function in a forked process whose files cannot grow beyond a size."""
    reader, writer = os.pipe()

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
        try:
            function()
        except Exception as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())

    child = _fork(run)
    os.close(writer)
    with os.fdopen(reader) as file:
        message = file.read()
    assert not _wait(child)
    return message


def run_on_small_disk(program: str, *arguments: str, size: str) -> str:
    """Return the standard output of a Python program with a disk of its own mounted at argument 1.

    Skips the test where the system lets users mount nothing.
    """
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0:
        pytest.skip("mounting needs unshare(1) and user namespaces")
    mount = f'mount -t tmpfs -o size={size} none "$3" && exec "$0" -c "$1" "${{@:3}}"'
    command = ["unshare", "-rm", "bash", "-c", mount, sys.executable, program, "", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def _fork(function: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        # The parent's other threads are not here, but OpenMP would wait for them.
        torch.set_num_threads(1)
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return child


def _wait(child: int) -> bool:
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return True
    assert os.WEXITSTATUS(status) == 0, status
    return False
