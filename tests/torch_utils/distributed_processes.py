"""Start real processes as torchrun, Slurm or submitit would, for tests."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import torch

ROOT = Path(__file__).parents[2]


def torchrun_environments(size: int) -> list[dict[str, str]]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    meeting_place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [meeting_place | {"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(size)]


def run_processes(
    command: list[str], environments: list[dict[str, str]], timeout: float = 120
) -> list[CompletedProcess]:
    """Run one Python process an environment at the same time; `command` follows `python`."""
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    results = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=timeout)
            results.append(CompletedProcess(process.args, process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return results


def fork_processes(
    function: Callable[[], object], size: int, timeout: float = 60
) -> list[CompletedProcess]:
    """Run a function in forked processes as if torchrun had started each with it as its program."""
    children = []
    for environment in torchrun_environments(size):
        files = [tempfile.TemporaryFile("w+") for _ in range(2)]
        child = os.fork()
        if child == 0:
            os.environ.update(environment)
            _run_as_program(function, *files)
        children.append((child, files))
    end = time.monotonic() + timeout
    results = []
    try:
        for child, files in children:
            while (status := os.waitpid(child, os.WNOHANG))[0] == 0:
                assert time.monotonic() < end, "a process does not end"
                time.sleep(0.02)
            texts = [(file.seek(0), file.read())[1] for file in files]
            results.append(CompletedProcess([], os.waitstatus_to_exitcode(status[1]), *texts))
    finally:
        for child, _ in children[len(results) :]:
            os.kill(child, 9)
    return results


def _run_as_program(function: Callable[[], object], out, err) -> None:
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout, sys.stderr = out, err
    # The parent's other threads are not here, but OpenMP would wait for them.
    torch.set_num_threads(1)
    code = 0
    try:
        function()
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc(file=err)
        code = 1
    out.flush()
    err.flush()
    os._exit(code)
