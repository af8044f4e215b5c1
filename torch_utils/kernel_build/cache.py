"""Keep compiled kernels in a folder that all processes of a user share.

An entry is a folder that appears as a whole, named by a hash of sources, flags, compilers, GPU
code and C library. A process that compiles holds a lock which ends with the process.
"""

import hashlib
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from torch_utils.kernel_build.architectures import capability, gpu_codes
from torch_utils.kernel_build.library import (
    LOG_NAME,
    CompileError,
    check_library,
    compile_library,
    read_info,
    source_digest,
    system_libc,
)
from torch_utils.kernel_build.toolchain import BuildError, Toolchain

_logger = logging.getLogger(__name__)

# Longer than a build takes on a slow machine. A lock outlives its holder on no file system known
# to us, but a stopped process keeps it; then it is better to compile twice than to wait for ever.
_LOCK_SECONDS = 600.0
# What failed is not tried again for so long: each try may cost minutes, in every process.
_FAILURE_SECONDS = 3600.0
# Folders of builds that were killed are removed once they are this old.
_LEFTOVER_SECONDS = 3600.0
_NAME_FOLDER = "Name a writable folder by MATE3D_CACHE"


def chosen_folder() -> Path | None:
    """Return where compiled kernels are kept, None for a user without a home folder.

    MATE3D_CACHE, TORCH_EXTENSIONS_DIR and XDG_CACHE_HOME choose, in this order.
    """
    if os.environ.get("MATE3D_CACHE"):
        folder = os.environ["MATE3D_CACHE"]
    elif os.environ.get("TORCH_EXTENSIONS_DIR"):
        folder = os.path.join(os.environ["TORCH_EXTENSIONS_DIR"], "mate3d")
    else:
        folder = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "mate3d")
    try:
        return Path(folder).expanduser().absolute() / "kernels"
    except RuntimeError:
        return None


def spare_folder() -> Path | None:
    """Return where kernels are kept if the chosen folder is not writable.

    Others write in the folder for temporary files too: None if one of them was there first, and
    could have put a library of his own into it.
    """
    try:
        temporary = Path(tempfile.gettempdir()).absolute()
    except FileNotFoundError:
        return None
    private = temporary / f"mate3d-{os.getuid()}"
    try:
        status = private.lstat()
    except OSError:
        return private / "kernels"
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return private / "kernels" if is_own and not status.st_mode & 0o022 else None


def is_writable(folder: Path) -> bool:
    """Return whether files can be made in a folder, or the folder itself if it is missing."""
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=existing):
            return True
    except OSError:
        return False


def _known_folders() -> list[Path]:
    return [folder for folder in (chosen_folder(), spare_folder()) if folder is not None]


def find_entry(
    capabilities: Sequence[tuple[int, int]], toolchain: Toolchain | None = None
) -> Path | None:
    """Return a folder with a library of the present sources that runs on these GPUs here.

    Args:
        capabilities: Compute capabilities of the GPUs.
        toolchain: The tools that it must be compiled with; None admits all.
    """
    for folder in _known_folders():
        for entry in sorted(folder.glob("*")):
            info = read_info(entry)
            if info is None or info.libc != system_libc():
                continue
            if toolchain is not None and not info.is_made_by(toolchain):
                continue
            try:
                check_library(entry, capabilities)
            except BuildError:
                continue
            return entry
    return None


def find_or_build(
    toolchain: Toolchain, architectures: Sequence[str], *, retry: bool = False
) -> Path:
    """Return a folder with the library that these tools make, compiling it if there is none.

    Args:
        toolchain: The tools to compile with.
        architectures: What it must run on, as in ("8.0", "9.0+PTX").
        retry: Compile also if that failed a short while ago.

    Raises:
        BuildError: If it cannot be compiled or there is no place for it.
    """
    codes = gpu_codes(toolchain.nvcc, architectures)
    capabilities = [capability(architecture) for architecture in architectures]
    entry = find_entry(capabilities, toolchain)
    if entry is not None:
        return entry
    name = _entry_name(toolchain, codes)
    folder = _folder_for_builds()
    with _lock(folder / f"{name}.lock"):
        # Another process may have compiled it while this one waited.
        entry = find_entry(capabilities, toolchain)
        if entry is not None:
            return entry
        if not retry:
            _raise_recent_failure(folder / f"{name}.log")
        try:
            return _build_entry(folder, name, toolchain, codes)
        except OSError as error:
            reason = f"compiled kernels cannot be kept in {folder}: {error}"
            raise BuildError(reason, _NAME_FOLDER) from error


def check_buildable(toolchain: Toolchain, architectures: Sequence[str]) -> None:
    """Check, as far as can be known before, that `find_or_build` can compile.

    Raises:
        BuildError: If nvcc does not know these GPUs, or it failed a short while ago.
    """
    name = _entry_name(toolchain, gpu_codes(toolchain.nvcc, architectures))
    for folder in _known_folders():
        _raise_recent_failure(folder / f"{name}.log")


def _entry_name(toolchain: Toolchain, codes: Sequence[str]) -> str:
    tools = toolchain.nvcc.version, toolchain.host.version
    parts = (source_digest(), system_libc(), *tools, *codes)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _folder_for_builds() -> Path:
    chosen, spare = chosen_folder(), spare_folder()
    if chosen is not None and _make_folder(chosen, 0o777):
        return chosen
    # Made for this user alone, and looked at again: another could have been faster.
    if spare is not None and _make_folder(spare, 0o700) and spare_folder() == spare:
        _logger.warning("%s is not writable; using %s for kernels", chosen, spare)
        return spare
    raise BuildError(f"compiled kernels cannot be kept: {chosen} is not writable", _NAME_FOLDER)


def _make_folder(folder: Path, mode: int) -> bool:
    try:
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(mode=mode, exist_ok=True)
        folder.mkdir(exist_ok=True)
    except OSError:
        return False
    return is_writable(folder)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _logger.warning("another process compiles the CUDA kernels; waiting for %s", path)
            lock.acquire(timeout=_LOCK_SECONDS, poll_interval=0.2)
    except Timeout:
        minutes = _LOCK_SECONDS / 60
        _logger.warning("%s is held for over %.0f minutes; going on without it", path, minutes)
    except (OSError, NotImplementedError) as error:
        # Some network file systems have no locks; at worst two processes compile the same.
        _logger.debug("cannot lock %s: %s", path, error)
    try:
        yield
    finally:
        lock.release()


def _raise_recent_failure(log: Path) -> None:
    try:
        age = time.time() - log.stat().st_mtime
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    if lines and 0 <= age < _FAILURE_SECONDS:
        raise CompileError(f"{lines[0]} ({age / 60:.0f} minutes ago)", log)


def _build_entry(folder: Path, name: str, toolchain: Toolchain, codes: Sequence[str]) -> Path:
    _remove_leftovers(folder)
    log = folder / f"{name}.log"
    work = Path(tempfile.mkdtemp(dir=folder, prefix=f".{name}-"))
    _logger.warning("compiling the CUDA kernels for %s; kept in %s", ", ".join(codes), folder)
    started = time.monotonic()
    try:
        # A folder within the temporary one, which is for this user alone.
        compile_library(work / "entry", toolchain, codes)
        log.unlink(missing_ok=True)
        _publish(work / "entry", folder / name)
    except CompileError as error:
        output = (work / "entry" / LOG_NAME).read_bytes()
        log.write_bytes(f"{error.reason}\n\n".encode() + output)
        raise CompileError(error.reason, log) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _logger.warning("compiled the CUDA kernels in %.0f s", time.monotonic() - started)
    return folder / name


def _publish(work: Path, entry: Path) -> None:
    """Move a finished folder to its place; a damaged one there goes, a good one stays."""
    if entry.exists() and not _is_whole(entry):
        entry.rename(work.with_name("damaged"))
    try:
        work.rename(entry)
    except OSError:
        # Without a lock another process may have been faster.
        if not _is_whole(entry):
            raise


def _is_whole(entry: Path) -> bool:
    try:
        check_library(entry, ())
    except BuildError:
        return False
    return True


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(".*-*"):
        try:
            if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
