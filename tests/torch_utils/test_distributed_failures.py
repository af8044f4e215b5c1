"""When one process fails, all end soon, with one exit code and one message."""

import logging
import os
import signal
import time
from functools import partial

import pytest

from mate3d.errors import UserError
from scripts._entry import run
from tests.torch_utils.distributed_processes import fork_processes
from torch_utils.distributed import any_process, distributed, is_main, run_on_main, world


def run_two(tmp_path, body):
    """Run a script of this body on two processes."""

    def main(config):
        with distributed("cpu"):
            body()

    words = ["output=x", f"paths.run_folder={tmp_path / 'run'}"]
    return fork_processes(lambda: run("prepare_data", main, words), 2)


def error_lines(results) -> list[str]:
    return [line for result in results for line in result.stderr.splitlines()]


def waiting_for_each_other(rank: int, act) -> None:
    """Let one process act; the other waits at a collective operation that it never reaches."""
    any_process(False)
    if world().rank == rank:
        act()
    any_process(False)


def raise_error(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("failing", [0, 1])
def test_user_error_of_one_ends_all_with_one_line(tmp_path, failing):
    act = partial(raise_error, UserError("wrong picture"))
    results = run_two(tmp_path, partial(waiting_for_each_other, failing, act))
    assert [result.returncode for result in results] == [2, 2]
    assert [line for line in error_lines(results) if "error" in line] == ["error: wrong picture"]


def computing_on() -> None:
    if not is_main():
        raise UserError("wrong picture")
    time.sleep(1000)


def waiting_for_main() -> None:
    run_on_main(partial(raise_error, UserError("wrong picture")))


@pytest.mark.parametrize("body", [computing_on, waiting_for_main])
def test_process_that_would_not_notice_is_ended(tmp_path, body):
    results = run_two(tmp_path, body)
    assert [result.returncode for result in results] == [2, 2]
    assert error_lines(results) == ["error: wrong picture"]


def test_error_that_all_find_is_shown_once():
    results = fork_processes(lambda: run("prepare_data", print, ["outptu=3"]), 2)
    assert [result.returncode for result in results] == [2, 2]
    (line,) = error_lines(results)
    assert "unknown option 'outptu'" in line


def test_bug_shows_one_traceback(tmp_path):
    act = partial(raise_error, ZeroDivisionError("a bug"))
    results = run_two(tmp_path, partial(waiting_for_each_other, 1, act))
    assert [result.returncode for result in results] == [1, 1]
    assert results[0].stderr == ""
    assert results[1].stderr.strip().endswith("ZeroDivisionError: a bug")


@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_process_ends_the_other_with_one_line(tmp_path, killed):
    def act() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    results = run_two(tmp_path, partial(waiting_for_each_other, killed, act))
    assert results[killed].returncode == -9 and results[1 - killed].returncode == 2
    # PyTorch's own store adds its view of a lost main process.
    (line,) = [line for line in error_lines(results) if line.startswith("error: ")]
    assert line.startswith("error: lost contact")


def test_main_process_alone_writes_and_speaks(tmp_path):
    def body() -> None:
        logging.getLogger("training").info("hello")
        logging.getLogger("training").warning("careful %d", world().rank)

    first, second = run_two(tmp_path, body)
    assert first.stdout == "hello\ncareful 0\n" and second.stdout == "careful 1\n"
    log = (tmp_path / "run/log.txt").read_text()
    assert "hello" in log and "careful 1" not in log


def test_all_use_the_configuration_of_the_main_process(tmp_path):
    def work() -> None:
        words = [f"seed={os.environ['RANK']}", f"paths.run_folder={tmp_path / 'run'}"]
        run("prepare_data", lambda config: print(config.seed), words)

    assert [result.stdout for result in fork_processes(work, 2)] == ["0\n", "0\n"]
