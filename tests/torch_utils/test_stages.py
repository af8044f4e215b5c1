"""Stages on a terminal and in a log."""

import fcntl
import io
import logging
import os
import re
import struct
import termios

import pytest
from tqdm import tqdm

from torch_utils import stages


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, logger="torch_utils.stages")
    return caplog


def test_a_log_has_lines_for_the_start_and_the_end_only(log):
    with stages.stage("Loading"):
        pass
    with stages.stage("Rendering", 400) as bar:
        for _ in range(400):
            bar.set_postfix({"loss": "0.5"}, refresh=False)
            bar.update()
    start, end, counted_start, counted_end = log.messages
    assert start == "Loading ..." and re.fullmatch(r"Loading: \d\.\d s", end)
    assert counted_start == "Rendering ..."
    assert re.fullmatch(r"Rendering: \d\.\d s", counted_end)


def test_a_long_stage_logs_how_far_it_is(log, monkeypatch):
    monkeypatch.setattr(stages, "_LOG_SECONDS", 0.0)
    with stages.stage("Outer", 1), stages.stage("Optimising", 3) as bar:
        for step in range(3):
            bar.set_postfix({"loss": step}, refresh=False)
            bar.update()
    assert [line for line in log.messages if "1/3" in line and "loss=0" in line]
    assert all("\r" not in line and "\x1b" not in line for line in log.messages)


def test_a_terminal_has_a_bar_that_gives_way_to_one_line(log, monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    with stages.stage("Rendering", 2) as bar:
        bar.update()
        bar.refresh()
        shown = stages.sys.stderr.getvalue()
        assert "1/2" in shown and "left" in shown and not log.messages
    (line,) = log.messages
    assert line.startswith("Rendering: ")
    # What stays of the bar is an empty line to write on.
    assert stages.sys.stderr.getvalue().rpartition("1/2")[2].split("\r")[-2].strip() == ""


def test_a_bar_with_three_numbers_fits_into_80_columns(monkeypatch):
    main, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    monkeypatch.setattr("sys.stderr", os.fdopen(terminal, "w"))
    numbers = {"loss": "1.23e+03", "IoU": "1.000", "PSNR": "100.0 dB"}
    with stages.stage("Optimising", 1000, 990) as bar:
        bar.set_postfix(numbers, refresh=False)
        bar.update(1)
        bar.refresh()
    lines = re.findall("[^\r\n]+", os.read(main, 2**16).decode())
    assert any("991/1000" in line and line.rstrip().endswith("PSNR=100.0 dB") for line in lines)
    assert max(map(len, lines)) <= 80


def test_an_interruption_names_the_item(log):
    with pytest.raises(KeyboardInterrupt), stages.stage("Optimising", 50) as bar:
        bar.update(17)
        raise KeyboardInterrupt
    assert log.messages[-1] == "Optimising: interrupted after 17 of 50"
    assert not tqdm._instances


def test_a_user_error_adds_nothing(log):
    with pytest.raises(ValueError), stages.stage("Loading"):
        raise ValueError
    assert log.messages == ["Loading ..."]
