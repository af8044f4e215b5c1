"""Signals become a request within the block only."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from torch_utils.interruption import stop_on_signal, was_preempted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_signal_sets_the_request_and_handlers_return(number):
    before = signal.getsignal(number)
    with stop_on_signal() as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), number)
        assert should_stop()
    assert was_preempted() == (number == signal.SIGUSR2)
    assert signal.getsignal(number) == before


@pytest.fixture
def usual_interrupt():
    """Make SIGINT raise; processes started in the background of a shell ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_second_interrupt_acts_as_usual(usual_interrupt):
    with pytest.raises(KeyboardInterrupt), stop_on_signal():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_never_stop():
    def work() -> bool:
        with stop_on_signal() as should_stop:
            return should_stop()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() is False
