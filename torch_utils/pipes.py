"""End quietly when the reader of the output, such as `head`, has gone."""

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# The exit code that a shell reports for SIGPIPE.
EXIT_CLOSED_PIPE = 128 + 13


@contextmanager
def quiet_pipes() -> Iterator[None]:
    """End with `EXIT_CLOSED_PIPE` if writing fails because the output has no reader any more."""
    try:
        yield
    except BrokenPipeError:
        # Pipes to other programs break too, and those errors matter.
        if not _drop_unread_output():
            raise
        sys.exit(EXIT_CLOSED_PIPE)
    finally:
        # Python would report the unwritten output when it exits.
        _drop_unread_output()


def _drop_unread_output() -> bool:
    """Redirect streams without a reader to the null device; return whether there are any."""
    unread = [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
    for stream in unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(unread)


def _is_unread(stream: TextIO) -> bool:
    try:
        stream.flush()
        # A failed write may have emptied the buffer, so the pipe itself is checked too.
        poll = select.poll()
        poll.register(stream, 0)
        return bool(poll.poll(0))
    except BrokenPipeError:
        return True
    # Windows has no poll, and streams need not be files.
    except (AttributeError, io.UnsupportedOperation):
        return False
