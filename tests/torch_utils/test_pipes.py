"""Programs whose output nobody reads any more end quietly; other broken pipes stay errors."""

import contextlib
import os
import subprocess
from collections.abc import Callable

import pytest

from scripts import download_weights
from torch_utils import doctor
from torch_utils.ops import _extension
from torch_utils.pipes import EXIT_CLOSED_PIPE, quiet_pipes


def code_without_reader(program: Callable[..., object], *arguments: object) -> object:
    """Return the exit code of a program whose standard output has no reader."""
    reader, writer = os.pipe()
    os.close(reader)
    # Closing the stream writes what is left, which must not fail either.
    with open(writer, "w") as stream, contextlib.redirect_stdout(stream):
        try:
            return program(*arguments)
        except SystemExit as end:
            return end.code


def test_help_and_doctor_end_quietly(monkeypatch, capsys):
    assert code_without_reader(download_weights.main, ["--help"]) in (None, EXIT_CLOSED_PIPE)
    monkeypatch.setattr("sys.argv", ["doctor"])
    monkeypatch.setattr(_extension, "visible_gpus", list)
    assert code_without_reader(doctor.main) in (0, EXIT_CLOSED_PIPE)
    assert capsys.readouterr() == ("", "")


def test_writing_more_than_a_buffer_ends_the_program():
    @quiet_pipes()
    def main() -> None:
        print("x" * 10**6)
        raise AssertionError("that could not be written")

    assert code_without_reader(main) == EXIT_CLOSED_PIPE


def test_pipes_to_other_programs_stay_errors():
    @quiet_pipes()
    def main() -> None:
        with subprocess.Popen(["true"], stdin=subprocess.PIPE) as process:
            process.wait()
            process.stdin.write(b"x" * 10**6)

    with pytest.raises(BrokenPipeError):
        main()
