"""Read access to the files of a dataset: folder, zip or tar shards."""

import io
import lzma
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, Protocol

from mate3d.atomic import standing_folder
from mate3d.errors import UserError
from training.data.format.layout import SHARD_FOLDER
from training.data.format.remote import is_remote
from training.data.format.shards import ShardFiles, list_shards

# Damaged archives raise any of these; RuntimeError is for encrypted members or unknown methods.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    UnicodeDecodeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)


class DatasetFiles(Protocol):
    """Read access to the files of a dataset."""

    def names(self) -> list[str]:
        """List all files, relative to the root, with forward slashes."""

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            UserError: If the file is missing or cannot be read.
        """

    def stamp(self, name: str) -> str:
        """Return a text that changes with a file's content, without reading it."""

    def where(self, name: str) -> str:
        """Return a file's location for error messages."""


class NamedContent(io.BytesIO):
    """In-memory file content that shows its name in error messages."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name

    __repr__ = __str__


class FolderFiles:
    """A dataset in a folder."""

    def __init__(self, path: Path):
        self.path = path

    def names(self) -> list[str]:
        files = (path for path in self.path.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.path).as_posix() for path in files)

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {self.where(name)}: {error.strerror}") from None

    def stamp(self, name: str) -> str:
        status = (self.path / name).stat()
        return f"{status.st_size} {status.st_mtime_ns}"

    def where(self, name: str) -> str:
        return str(self.path / name)


class ZipFiles(FolderFiles):
    """A dataset in a zip archive, opened once per process."""

    _archive: zipfile.ZipFile | None = None
    _process = 0

    def names(self) -> list[str]:
        return sorted(name for name in self._open().namelist() if not name.endswith("/"))

    def read(self, name: str) -> bytes:
        try:
            return self._open().read(name)
        except _ZIP_ERRORS as error:
            raise UserError(f"archive {self.path} is damaged at {name}: {error}") from None

    def stamp(self, name: str) -> str:
        return str(self._open().getinfo(name).CRC)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def _open(self) -> zipfile.ZipFile:
        # A forked worker must not share the parent's file position.
        if self._archive is None or self._process != os.getpid():
            try:
                self._archive = zipfile.ZipFile(self.path)
            except _ZIP_ERRORS as error:
                raise UserError(f"archive {self.path} is not a readable zip: {error}") from None
            self._process = os.getpid()
        return self._archive


def open_files(path: str | Path) -> DatasetFiles:
    """Open the files of a dataset, without checking their contents.

    Shards appear as the tree that they were made from: `dataset.json`, `images/NAME`, `masks/NAME`.

    Args:
        path: Folder, zip archive, folder with `shards/*.tar`, or the URL of such a folder.

    Raises:
        UserError: If the path does not exist, or an archive or shard is damaged.
    """
    if is_remote(str(path)):
        return ShardFiles(str(path))
    path = standing_folder(Path(path))
    if not path.exists():
        raise UserError(f"dataset not found: {path}; use a folder or a .zip archive")
    if not path.is_dir():
        return ZipFiles(path)
    if not (path / SHARD_FOLDER).is_dir() or not list_shards(path):
        return FolderFiles(path)
    if (path / "images").exists():
        raise UserError(f"dataset {path} has both images/ and {SHARD_FOLDER}/; remove one of them")
    return ShardFiles(str(path))
