"""Turn SIGTERM, SIGINT and SIGUSR2 into a request to finish the current step."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_logger = logging.getLogger(__name__)
# Slurm and submitit send this signal some time before they end a job. Windows does not have it.
_PREEMPTION = getattr(signal, "SIGUSR2", None)
_SIGNALS = tuple(filter(None, (signal.SIGTERM, signal.SIGINT, _PREEMPTION)))

_received: list[int] = []


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether to stop; a second SIGTERM or SIGINT acts as usual.

    Only the main thread can catch signals; in other threads this has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    own_process = os.getpid()
    _received.clear()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def remember(number: int, _frame: object) -> None:
        if os.getpid() != own_process:
            # Ctrl-C also reaches forked data workers, which the last step still needs.
            return
        _received.append(number)
        _logger.info("%s: finishing this step, then saving", signal.Signals(number).name)
        if number != _PREEMPTION:
            restore()

    for number in _SIGNALS:
        signal.signal(number, remember)
    try:
        yield lambda: bool(_received)
    finally:
        restore()


def was_preempted() -> bool:
    """Return whether the last `stop_on_signal` of this process received SIGUSR2."""
    return _PREEMPTION in _received
