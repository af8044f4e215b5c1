"""Keep compiled kernels in a folder that all processes of a user share.

An entry is a folder named after the C library and a hash of sources, flags, compilers and GPU code.
A compiling process holds a lock that ends with the process.
"""

import hashlib
import logging
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from torch_utils.kernel_build.architectures import gpu_codes
from torch_utils.kernel_build.library import (
    LOG_NAME,
    check_library,
    compile_library,
    source_digest,
)
from torch_utils.kernel_build.toolchain import BuildError, Toolchain

_logger = logging.getLogger(__name__)

# Longer than a build on a slow machine. A lock never outlives its process on the file systems that
# we know, but a suspended process keeps it; compiling twice is better than waiting forever.
_LOCK_SECONDS = 600.0
# A failed build is not repeated for this long: each attempt may cost minutes in every process.
_FAILURE_SECONDS = 3600.0


def cache_folder() -> Path:
    """Return the folder of compiled kernels.

    Set by MATE3D_CACHE, TORCH_EXTENSIONS_DIR or XDG_CACHE_HOME, in this order.

    Raises:
        BuildError: If none is set and the user has no home folder.
    """
    folder = os.environ.get("MATE3D_CACHE")
    if not folder:
        shared = os.environ.get("TORCH_EXTENSIONS_DIR") or os.environ.get("XDG_CACHE_HOME")
        folder = os.path.join(shared or "~/.cache", "mate3d")
    try:
        return Path(folder).expanduser().absolute() / "kernels"
    except RuntimeError as error:
        raise BuildError("there is no home folder", "Set MATE3D_CACHE to a folder") from error


def find_entry(gpus: Sequence[str], toolchain: Toolchain | None = None) -> Path | None:
    """Return a folder with a library of the current sources that runs on these GPUs.

    Args:
        gpus: Their compute capabilities.
        toolchain: Accept only libraries compiled with this nvcc; None accepts all.
    """
    for entry in sorted(cache_folder().glob(f"{_libc()}-*")):
        try:
            info = check_library(entry, gpus)
        except BuildError:
            continue
        if toolchain is None or info.nvcc == toolchain.version:
            return entry
    return None


def find_or_build(
    toolchain: Toolchain, architectures: Sequence[str], *, retry: bool = False
) -> Path:
    """Return a folder with the library of these tools, compiling it if necessary.

    Args:
        architectures: Architectures it must run on, e.g. ("8.0", "9.0+PTX").
        retry: Compile even if that failed recently.

    Raises:
        BuildError: If it cannot be compiled or stored.
    """
    if found := find_entry(architectures, toolchain):
        return found
    entry = _entry(toolchain, architectures)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"compiled kernels cannot be kept in {entry.parent}: {error.strerror}"
        raise BuildError(reason, "Set MATE3D_CACHE to a writable folder") from error
    with _lock(entry.with_name(f"{entry.name}.lock")):
        # Another process may have compiled it while this one waited.
        if found := find_entry(architectures, toolchain):
            return found
        if not retry:
            check_buildable(toolchain, architectures)
        _logger.warning("compiling the CUDA kernels into %s (about a minute)", entry)
        compile_library(entry, toolchain, gpu_codes(toolchain, architectures))
    return entry


def check_buildable(toolchain: Toolchain, architectures: Sequence[str]) -> None:
    """Check, without compiling, whether `find_or_build` is likely to succeed.

    Raises:
        BuildError: If nvcc does not support these GPUs, or compiling failed recently.
    """
    log = _entry(toolchain, architectures) / LOG_NAME
    try:
        minutes = (time.time() - log.stat().st_mtime) / 60
        reason = log.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        return
    if 60 * minutes < _FAILURE_SECONDS:
        remedy = f"The compiler's output is in {log}"
        raise BuildError(f"{reason} ({minutes:.0f} minutes ago)", remedy)


def _entry(toolchain: Toolchain, architectures: Sequence[str]) -> Path:
    codes = gpu_codes(toolchain, architectures)
    parts = (source_digest(), toolchain.version, str(toolchain.host), *codes)
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
    return cache_folder() / f"{_libc()}-{name}"


def _libc() -> str:
    """Return the C library; libraries linked against a newer one do not load."""
    return "-".join(platform.libc_ver())


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _logger.warning("another process is compiling the CUDA kernels; waiting for %s", path)
            lock.acquire(timeout=_LOCK_SECONDS, poll_interval=0.2)
    except (Timeout, OSError, NotImplementedError) as error:
        # Some network file systems have no locks; at worst two processes compile the same library.
        _logger.warning("continuing without the lock %s: %s", path, error)
    try:
        yield
    finally:
        lock.release()
