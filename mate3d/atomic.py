"""Files and folders that are complete or not there, and locks, whatever ends the writer.

Everything is written under a name that starts with `.partial.`, forced to the disk, and renamed.
"""

import contextlib
import ctypes
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

# Both are followed by something random, a dot, and the name that is written.
_PARTIAL, _REPLACED = ".partial.", ".replaced."
# renameat2(2) of Linux: paths relative to the working directory, and the names trade places.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_FULL = (errno.ENOSPC, errno.EDQUOT)
# So many are forced to the disk together, which is faster; writers have heard of a full disk.
_MANY_FILES = 1000
# Records that wait for space take no more memory than this; the oldest go first.
_MAX_WAITING_BYTES = 64 * 2**20

_logger = logging.getLogger(__name__)


def atomic_files(folder: str | Path) -> AbstractContextManager[Path]:
    """Yield a temporary folder whose files take their places only if the block succeeds.

    They do so one by one, in the order of their names.

    Args:
        folder: Made if it is missing; files of other names stay.

    Raises:
        UserError: If it cannot be written, in the block or afterwards.
    """
    return _moving_files(Path(folder), Path(folder))


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` only if the block succeeds.

    It has the same name, from which writers choose their format.

    Raises:
        UserError: See `atomic_files`; it names the file.
    """
    path = Path(path)
    with _moving_files(path.parent, path) as temporary:
        yield temporary / path.name


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling that replaces `folder` as a whole only if the block succeeds.

    On Linux the two trade names, so that there is a complete folder at any moment. File systems
    that cannot do that (some of networks) take two renames; who is killed between them leaves the
    old one to `standing_folder` and `remove_leftovers`.

    Raises:
        UserError: If it cannot be written, in the block or afterwards.
    """
    folder = Path(folder)
    with _temporary_folder(folder.parent, folder) as temporary:
        yield temporary
        make_public(temporary)
        paths = [*sorted(temporary.rglob("*")), temporary]
        if len(paths) > _MANY_FILES:
            os.sync()
        else:
            for path in paths:
                _force_to_disk(path)
        if not folder.exists():
            os.replace(temporary, folder)
        elif not _exchange(temporary, folder):
            aside = folder.with_name(_REPLACED + temporary.name.removeprefix(_PARTIAL))
            os.replace(folder, aside)
            os.replace(temporary, folder)
            _remove(aside)
        _force_to_disk(folder.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder; whoever looks meanwhile finds all of it or nothing.

    Raises:
        UserError: If it cannot be removed.
    """
    with _temporary_folder(folder.parent, folder) as temporary:
        os.replace(folder, temporary)


def standing_folder(folder: Path) -> Path:
    """Return a folder, or what stands in for it since a writer was killed while replacing it."""
    if folder.exists() or not folder.parent.is_dir():
        return folder
    return next((path for path, _ in _leftovers(folder.parent, _REPLACED, folder.name)), folder)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Clean a folder after writers that were killed; none may be at work in it.

    What they had not finished goes; what they had set aside and not replaced comes back.

    Args:
        folder: May be missing.
        name: Look after writers of this file or folder only; others may be at work then.

    Raises:
        UserError: If the folder cannot be changed.
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
    """Hold a lock for the block; the system gives it back when the process ends.

    Args:
        path: An empty file of its own, made with its folder if it is missing; it stays.
        refusal: What a user reads if another process holds it.
        patience_s: How long to wait for that process.

    Raises:
        UserError: If another process holds it, or it cannot be written.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=patience_s)
    except Timeout:
        raise UserError(refusal) from None
    except NotImplementedError:
        # Some file systems of networks know no locks.
        _logger.warning("%s cannot be locked; let no other process write there", path.parent)
    except OSError as error:
        raise _cannot_write(path.parent, error) from error
    try:
        yield
    finally:
        lock.release()


class AppendedFile:
    """A file that grows by whole records.

    A record that cannot be written leaves the file as it was, waits, and is written before the
    next one that can.

    Args:
        path: Made at the first record; what it holds stays.
    """

    def __init__(self, path: Path):
        self.path = path
        self._waiting: deque[bytes] = deque()

    def append(self, record: bytes) -> None:
        """Write a record after those that wait.

        Raises:
            OSError: If there is no space or no way to write; the record waits.
        """
        self._waiting.append(record)
        while len(self._waiting) > 1 and sum(map(len, self._waiting)) > _MAX_WAITING_BYTES:
            self._waiting.popleft()
        self.flush()

    def flush(self) -> None:
        """Write the records that wait.

        Raises:
            OSError: If they must wait longer.
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
    """Give a file or folder that was made private the permissions of any new one."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


@contextmanager
def _temporary_folder(parent: Path, place: Path) -> Iterator[Path]:
    """Yield a new folder in `parent` that is gone after the block; errors there name `place`."""
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
    """Return what lies there under temporary names, each with its own name."""
    paths = sorted(parent.glob(f"{marker}*"))
    named = [(path, path.name.removeprefix(marker).partition(".")[2]) for path in paths]
    return [(path, own_name) for path, own_name in named if name in (None, own_name)]


def _exchange(first: Path, second: Path) -> bool:
    """Let two paths trade names at once; return whether system and file system can do that."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    paths = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
    if rename(*paths, ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _force_to_disk(path: Path) -> None:
    """Wait until the disk has a file's content or a folder's names; tells late that it is full."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems of networks cannot do this, for folders above all.
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
    advice = "; free some space, what was there is as it was" if error.errno in _FULL else ""
    return UserError(f"cannot write {place}: {error.strerror or error}{advice}")
