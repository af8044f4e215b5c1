"""Peak memory of this process, on systems that report it."""

import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

_STATUS = Path("/proc/self/status")


def peak_memory_bytes() -> int | None:
    """Return the peak resident memory of this process, or None if the system does not report it."""
    # Linux counts the parent's memory into `ru_maxrss` of a new process, but not into this.
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
