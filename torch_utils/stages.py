"""Show what a command is doing: a bar on a terminal, lines in a log."""

import io
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from tqdm import tqdm

from torch_utils.distributed import is_main

_logger = logging.getLogger(__name__)
# Without a terminal, how often a long stage logs its progress.
_LOG_SECONDS = 10.0
# Short enough for 80 columns with a few numbers behind it.
_COUNTS = "{n_fmt}/{total_fmt}, {remaining} left{postfix}"


class _LogLines(io.StringIO):
    """A file that turns each line of a bar into a log record."""

    def write(self, text: str) -> int:
        if text.strip():
            _logger.info(text.strip())
        return len(text)


@contextmanager
def _ticking(bar: tqdm) -> Iterator[None]:
    """Redraw a bar every second, so that its clock runs during long items too."""
    done = threading.Event()

    def draw() -> None:
        while not done.wait(1.0):
            bar.refresh()

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def stage(name: str, total: int | None = None, initial: int = 0) -> Iterator[tqdm]:
    """Show a stage of a command while it runs, and log how long it took.

    A terminal shows a bar, which is replaced by the line with the seconds. A log gets a line at
    the start, and another every ten seconds with the progress so far.

    Args:
        name: Name of the stage, such as "Rendering views".
        total: Number of items; None for a stage that cannot be counted.
        initial: Items that were finished before.

    Yields:
        The bar, whose `update` counts finished items.
    """
    started, is_terminal = time.perf_counter(), sys.stderr.isatty()
    if not is_terminal:
        _logger.info("%s ...", name)
    counted = f"{{desc}}: |{{bar}}| {_COUNTS}" if is_terminal else f"{{desc}}: {_COUNTS}"
    bar = tqdm(
        desc=name,
        total=total,
        initial=initial,
        bar_format="{desc} ... {elapsed}" if total is None else counted,
        file=sys.stderr if is_terminal else _LogLines(),
        mininterval=0.1 if is_terminal else _LOG_SECONDS,
        delay=0 if is_terminal else _LOG_SECONDS,
        miniters=1,
        # A nested bar would move the cursor to its own row.
        position=None if is_terminal else 0,
        dynamic_ncols=is_terminal,
        leave=False,
        disable=not is_main(),
    )
    try:
        with bar, _ticking(bar) if is_terminal else nullcontext():
            yield bar
    except KeyboardInterrupt:
        where = "" if total is None else f" after {bar.n} of {total}"
        _logger.info("%s: interrupted%s", name, where)
        raise
    _logger.info("%s: %.1f s", name, time.perf_counter() - started)
