"""Atomic writes of files and folders, and file locks; safe even if the writer is killed.

Everything is written under a name that starts with `.partial.`, synced to disk, then renamed.
"""

import contextlib
import errno
import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mate3d.errors import UserError

# Both prefixes are followed by a random part, a dot, and the final name.
_PARTIAL, _REPLACED = ".partial.", ".replaced."
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Beyond this many files, one system-wide sync is faster than one fsync per file.
_MANY_FILES = 1000

_logger = logging.getLogger(__name__)


def atomic_files(folder: str | Path) -> AbstractContextManager[Path]:
    """Yield a temporary folder whose files are moved into `folder` only if the block succeeds.

    Files are moved one by one, in order of name.

    Args:
        folder: Created if missing; files with other names are kept.

    Raises:
        UserError: If writing fails, in the block or afterwards.
    """
    return _moving_files(Path(folder), Path(folder))


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` only if the block succeeds.

    Its name is the same, since some writers choose the format from the suffix.

    Raises:
        UserError: If writing fails, in the block or afterwards.
    """
    path = Path(path)
    with _moving_files(path.parent, path) as temporary:
        yield temporary / path.name


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling that replaces the whole `folder` only if the block succeeds.

    Replacing a folder takes two renames; if the process is killed between them, `standing_folder`
    and `remove_leftovers` find the old folder.

    Raises:
        UserError: If writing fails, in the block or afterwards.
    """
    folder = Path(folder)
    with _temporary_folder(folder.parent, folder) as temporary:
        yield temporary
        make_public(temporary)
        paths = [*sorted(temporary.rglob("*")), temporary]
        if len(paths) > _MANY_FILES and hasattr(os, "sync"):
            os.sync()
        else:
            for path in paths:
                _force_to_disk(path)
        aside = folder.with_name(_REPLACED + temporary.name.removeprefix(_PARTIAL))
        if folder.exists():
            os.replace(folder, aside)
        os.replace(temporary, folder)
        _remove(aside)
        _force_to_disk(folder.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder atomically: readers see all of it or nothing.

    Raises:
        UserError: If it cannot be removed.
    """
    with _temporary_folder(folder.parent, folder) as temporary:
        os.replace(folder, temporary)


def standing_folder(folder: Path) -> Path:
    """Return `folder`, or its saved copy if a writer was killed while replacing it."""
    if folder.exists() or not folder.parent.is_dir():
        return folder
    return next((path for path, _ in _leftovers(folder.parent, _REPLACED, folder.name)), folder)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Clean up after killed writers; no writer may be active in the folder.

    Unfinished files are removed; those set aside but not yet replaced are restored.

    Args:
        folder: May be missing.
        name: Clean up only after writers of this file or folder; others may then be active.

    Raises:
        UserError: If the folder cannot be modified.
    """
    try:
        for path, own_name in _leftovers(folder, _REPLACED, name):
            if (folder / own_name).exists():
                _remove(path)
            else:
                os.replace(path, folder / own_name)
        for path, _ in _leftovers(folder, _PARTIAL, name):
            _remove(path)
    except OSError as error:
        raise _cannot_write(folder, error) from error


@contextmanager
def file_lock(path: Path, refusal: str, *, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a lock during the block; the system releases it if the process dies.

    Args:
        path: A dedicated empty lock file, created with its folder if missing and never removed.
        refusal: Error message if another process holds the lock.
        patience_s: How long to wait for that process, in seconds.

    Raises:
        UserError: If another process holds the lock, or the file cannot be written.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=patience_s)
    except Timeout:
        raise UserError(refusal) from None
    except NotImplementedError:
        # Some network file systems do not support locks.
        _logger.warning("cannot lock %s; make sure that no other process writes there", path.parent)
    except OSError as error:
        raise _cannot_write(path.parent, error) from error
    try:
        yield
    finally:
        lock.release()


class AppendedFile:
    """A file that records are appended to, each completely or not at all.

    If a record cannot be written, the file is unchanged and the record is queued for the next
    write.

    Args:
        path: Created by the first record; existing content is kept.
    """

    def __init__(self, path: Path):
        self.path = path
        self._waiting: deque[bytes] = deque()

    def append(self, record: bytes) -> None:
        """Write a record after any queued ones.

        Raises:
            OSError: If writing fails; the record stays queued.
        """
        self._waiting.append(record)
        self.flush()

    def flush(self) -> None:
        """Write the queued records.

        Raises:
            OSError: If writing fails; the rest stay queued.
        """
        while self._waiting:
            with self.path.open("ab", buffering=0) as file:
                size, view = file.seek(0, 2), memoryview(self._waiting[0])
                try:
                    while view:
                        view = view[file.write(view) :]
                except OSError:
                    file.truncate(size)
                    raise
            self._waiting.popleft()


def make_public(path: Path) -> None:
    """Give a private temporary file or folder the default permissions of a new one."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


@contextmanager
def _temporary_folder(parent: Path, place: Path) -> Iterator[Path]:
    """Yield a new folder in `parent`, removed after the block; errors mention `place`."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_PARTIAL, suffix=f".{place.name}", dir=parent))
    except OSError as error:
        raise _cannot_write(parent, error) from error
    try:
        yield temporary
    except OSError as error:
        raise _cannot_write(place, error) from error
    finally:
        _remove(temporary)


@contextmanager
def _moving_files(folder: Path, place: Path) -> Iterator[Path]:
    with _temporary_folder(folder, place) as temporary:
        yield temporary
        paths = sorted(temporary.iterdir())
        for path in paths:
            _force_to_disk(path)
        for path in paths:
            os.replace(path, folder / path.name)
        _force_to_disk(folder)


def _leftovers(parent: Path, marker: str, name: str | None) -> list[tuple[Path, str]]:
    """Return the paths with temporary names, each with its final name."""
    paths = sorted(parent.glob(f"{marker}*"))
    named = [(path, path.name.removeprefix(marker).partition(".")[2]) for path in paths]
    return [(path, own_name) for path, own_name in named if name in (None, own_name)]


def _force_to_disk(path: Path) -> None:
    """Sync a file's content or a folder's entries; may be the first call to report a full disk."""
    if os.name == "nt":  # Windows syncs neither folders nor files that are open for reading.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems do not support this, especially for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _cannot_write(place: Path, error: OSError) -> UserError:
    advice = "; free some space; the existing files are unchanged" if error.errno in _FULL else ""
    return UserError(f"cannot write {place}: {error.strerror or error}{advice}")
