"""Turn SIGTERM and SIGINT into a request to finish the current step."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_logger = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether to stop; a second signal acts as usual.

    Signals can be caught in the main thread only; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    received: list[int] = []
    own_process = os.getpid()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def remember(number: int, _frame: object) -> None:
        if os.getpid() != own_process:
            # Ctrl-C also reaches forked data workers, which must serve the step that finishes.
            return
        received.append(number)
        _logger.info("%s: finishing this step, then saving", signal.Signals(number).name)
        restore()

    for number in _SIGNALS:
        signal.signal(number, remember)
    try:
        yield lambda: bool(received)
    finally:
        restore()
