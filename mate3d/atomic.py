"""Files and folders that appear complete or not at all, whatever ends the process that writes.

Everything is written under a name that starts with `.partial.`, forced to the disk, and renamed.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mate3d.errors import UserError

_PARTIAL, _REPLACED = ".partial.", ".replaced."
# renameat2(2) of Linux: paths relative to the working directory, and the names trade places.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_files(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder whose files take their places only if the block succeeds.

    They do so one by one, in the order of their names.

    Args:
        folder: Made if it is missing; files of other names stay.

    Raises:
        UserError: If it cannot be written, in the block or afterwards.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder))
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        yield temporary
        paths = sorted(temporary.iterdir())
        for path in paths:
            _force_to_disk(path)
        for path in paths:
            os.replace(path, folder / path.name)
        _force_to_disk(folder)
    except OSError as error:
        raise _cannot_write(error.filename2 or folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` only if the block succeeds.

    It has the same name, from which writers choose their format.

    Raises:
        UserError: See `atomic_files`; it names the file.
    """
    path = Path(path)
    with atomic_files(path.parent) as folder:
        try:
            yield folder / path.name
        except OSError as error:
            raise _cannot_write(path, error) from error


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
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.parent))
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        yield temporary
        make_public(temporary)
        for path in [*sorted(temporary.rglob("*")), temporary]:
            _force_to_disk(path)
        _replace_folder(temporary, folder)
        _force_to_disk(folder.parent)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        _remove(temporary)


def remove_folder(folder: Path) -> None:
    """Remove a folder; whoever looks meanwhile finds all of it or nothing.

    Raises:
        UserError: If it cannot be removed.
    """
    try:
        aside = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.parent))
        os.replace(folder, aside / folder.name)
        shutil.rmtree(aside)
    except OSError as error:
        raise UserError(f"cannot remove {folder}: {error.strerror or error}") from error


def standing_folder(folder: Path) -> Path:
    """Return a folder, or what stands in for it since a writer was killed while replacing it."""
    if folder.exists() or not folder.parent.is_dir():
        return folder
    return next((path for path, name in _set_aside(folder.parent) if name == folder.name), folder)


def remove_leftovers(folder: Path) -> None:
    """Clean a folder after writers that were killed; none may be at work in it.

    What they had not finished goes; what they had set aside and not replaced comes back.

    Raises:
        UserError: If the folder cannot be changed.
    """
    try:
        for path, name in _set_aside(folder):
            if (folder / name).exists():
                _remove(path)
            else:
                os.replace(path, folder / name)
        for path in folder.glob(f"{_PARTIAL}*"):
            _remove(path)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def make_public(path: Path) -> None:
    """Give a file or folder that was made private the permissions of any new one."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def _replace_folder(new: Path, folder: Path) -> None:
    if not folder.exists():
        os.replace(new, folder)
    elif not _exchange(new, folder):
        aside = folder.with_name(f"{_REPLACED}{new.name.removeprefix(_PARTIAL)}.{folder.name}")
        os.replace(folder, aside)
        os.replace(new, folder)
        _remove(aside)


def _set_aside(parent: Path) -> list[tuple[Path, str]]:
    """Return folders that were set aside, each with its own name."""
    paths = sorted(parent.glob(f"{_REPLACED}*.*"))
    return [(path, path.name.removeprefix(_REPLACED).split(".", 1)[1]) for path in paths]


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


def _cannot_write(path: str | Path, error: OSError) -> UserError:
    advice = "; free some space, what was there is as it was" if error.errno in _FULL else ""
    return UserError(f"cannot write {path}: {error.strerror or error}{advice}")
