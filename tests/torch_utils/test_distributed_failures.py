"""When one process fails, all end soon, with one exit code and one message."""

import time

import pytest

from tests.torch_utils.distributed_processes import run_processes, torchrun_environments

# Waiting for ever at a collective operation that the failed process never reaches.
PRELUDE = """
import os, signal, sys, time, torch
from scripts._entry import run
from mate3d.errors import UserError
from torch_utils.distributed import *
def start(body):
    def main(config):
        with distributed("cpu") as world:
            body(world)
    run("prepare_data", main, ["output=x", "paths.run_folder=" + sys.argv[1]])
"""


def run_two(tmp_path, code: str, size: int = 2):
    command = ["-c", PRELUDE + code, str(tmp_path / "run")]
    start = time.monotonic()
    results = run_processes(command, torchrun_environments(size))
    assert time.monotonic() - start < 60
    return results


def lines(results) -> list[str]:
    return [line for result in results for line in result.stderr.splitlines()]


@pytest.mark.parametrize("failing", [0, 1])
def test_user_error_of_one_ends_all_with_one_line(tmp_path, failing):
    code = f"""
def body(world):
    barrier()
    if world.rank == {failing}:
        raise UserError("wrong picture")
    barrier()
start(body)
"""
    results = run_two(tmp_path, code)
    assert [result.returncode for result in results] == [2, 2]
    assert [line for line in lines(results) if "error" in line] == ["error: wrong picture"]


def test_process_that_computes_on_is_ended(tmp_path):
    code = """
def body(world):
    if world.rank == 1:
        raise UserError("wrong picture")
    time.sleep(1000)
start(body)
"""
    results = run_two(tmp_path, code)
    assert [result.returncode for result in results] == [2, 2]
    assert lines(results) == ["error: wrong picture"]


def test_error_that_all_find_is_shown_once(tmp_path):
    code = 'run("prepare_data", lambda config: None, ["outptu=3"])'
    results = run_two(tmp_path, code)
    assert [result.returncode for result in results] == [2, 2]
    assert len(lines(results)) == 1 and "unknown option 'outptu'" in lines(results)[0]


def test_bug_shows_one_traceback(tmp_path):
    code = """
def body(world):
    barrier()
    if world.rank == 1:
        raise ZeroDivisionError("a bug")
    barrier()
start(body)
"""
    results = run_two(tmp_path, code)
    assert [result.returncode for result in results] == [1, 1]
    assert results[0].stderr == ""
    assert results[1].stderr.strip().endswith("ZeroDivisionError: a bug")


@pytest.mark.parametrize("killed", [0, 1])
def test_killed_process_ends_the_other_with_one_line(tmp_path, killed):
    code = f"""
def body(world):
    barrier()
    if world.rank == {killed}:
        os.kill(os.getpid(), signal.SIGKILL)
    barrier()
start(body)
"""
    results = run_two(tmp_path, code)
    assert results[killed].returncode == -9 and results[1 - killed].returncode == 2
    # PyTorch's own store adds its view of a lost main process.
    (line,) = [line for line in lines(results) if line.startswith("error: ")]
    assert line.startswith("error: lost contact with other processes")


def test_main_process_alone_writes_and_speaks(tmp_path):
    code = """
import logging
def body(world):
    logging.getLogger("training").info("hello")
    logging.getLogger("training").warning("careful %d", world.rank)
start(body)
"""
    first, second = run_two(tmp_path, code)
    assert first.stdout == "hello\ncareful 0\n" and second.stdout == "careful 1\n"
    log = (tmp_path / "run/log.txt").read_text()
    assert "hello" in log and "careful 1" not in log


def test_all_use_the_configuration_of_the_main_process(tmp_path):
    code = """
def main(config):
    print(config.seed)
run("prepare_data", main, ["seed=" + os.environ["RANK"], "paths.run_folder=" + sys.argv[1]])
"""
    assert [result.stdout for result in run_two(tmp_path, code)] == ["0\n", "0\n"]
