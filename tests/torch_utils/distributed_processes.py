"""Run functions in real processes, as torchrun would start them, for tests."""

import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from subprocess import CompletedProcess

import torch

_FORK = multiprocessing.get_context("fork")


def fork_processes(
    function: Callable[[], object], size: int, timeout: float = 60
) -> list[CompletedProcess]:
    """Run a function in forked processes as if torchrun had started each with it as its program.

    A single process runs alone, without torchrun.
    """
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    meeting_place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = []
    for rank in map(str, range(size)):
        environment = meeting_place | {"RANK": rank, "LOCAL_RANK": rank} if size > 1 else {}
        files = [tempfile.TemporaryFile("w+") for _ in range(2)]
        child = _FORK.Process(target=_run_as_program, args=(function, environment, *files))
        child.start()
        children.append((child, files))
    end = time.monotonic() + timeout
    results = []
    try:
        for child, files in children:
            child.join(max(end - time.monotonic(), 0))
            assert child.exitcode is not None, "a process does not end"
            texts = [(file.seek(0), file.read())[1] for file in files]
            results.append(CompletedProcess([], child.exitcode, *texts))
    finally:
        for child, _ in children:
            child.kill()
    return results


def _run_as_program(function: Callable[[], object], environment: dict[str, str], out, err) -> None:
    os.environ.update(environment)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout, sys.stderr = out, err
    # The parent's other threads are not here, but OpenMP would wait for them.
    torch.set_num_threads(1)
    function()
