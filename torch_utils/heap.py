"""Reuse of memory on a CPU, where fresh pages cost more than most operations on them."""

import ctypes
import sys

# Numbers of <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let the C library keep memory that tensors free, for the tensors that follow.

    By default it hands every block above 32 MiB back to the system, which clears each page before
    it gives one out again: a third of the time of a training step with large images. The process
    keeps its peak size until it ends. Only the GNU C library knows these settings; they last.

    Returns:
        Whether the library took the settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    never, pad = -1, 64 * 2**20
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, never), (_M_TOP_PAD, pad))
    results = [mallopt(name, value) for name, value in settings]
    return all(results)
