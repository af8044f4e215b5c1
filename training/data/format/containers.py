"""What a writer writes into: a folder, an uncompressed zip, or a folder of tar shards."""

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from training.data.format.layout import (
    IMAGE_FOLDER,
    IMAGE_SUFFIX,
    INDEX_NAME,
    MASK_FOLDER,
    MASK_SUFFIX,
    RECORD_SUFFIX,
    SHARD_FOLDER,
    SHARD_INDEX_NAME,
    key_from_name,
    shard_name,
)
from training.data.format.shards import ShardTable, dump_tables, scan_shard


class Container(Protocol):
    """A half-written data set at a temporary path."""

    def add(self, name: str, image: bytes, mask: bytes, record: Mapping[str, Any]) -> None:
        """Write one sample; `record` is all else that is known of it."""

    def finish(self, index: bytes) -> None:
        """Write `dataset.json` and close everything."""

    def close(self) -> None:
        """Close everything as it is."""


class FolderContainer:
    """Files in a folder."""

    def __init__(self, path: Path):
        self._path = path
        path.mkdir()

    def add(self, name: str, image: bytes, mask: bytes, record: Mapping[str, Any]) -> None:
        _write(self._path / IMAGE_FOLDER / name, image)
        _write(self._path / MASK_FOLDER / name, mask)

    def finish(self, index: bytes) -> None:
        _write(self._path / INDEX_NAME, index)

    def close(self) -> None:
        """There is nothing open."""


class ZipContainer:
    """The same tree in an uncompressed zip."""

    def __init__(self, path: Path):
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)

    def add(self, name: str, image: bytes, mask: bytes, record: Mapping[str, Any]) -> None:
        # A fixed time stamp, so that the same data set has the same bytes.
        self._archive.writestr(zipfile.ZipInfo(IMAGE_FOLDER + name), image)
        self._archive.writestr(zipfile.ZipInfo(MASK_FOLDER + name), mask)

    def finish(self, index: bytes) -> None:
        self._archive.writestr(zipfile.ZipInfo(INDEX_NAME), index)
        self.close()

    def close(self) -> None:
        self._archive.close()


class ShardContainer:
    """Tar shards of `shard_size` samples in the WebDataset convention, and their index."""

    def __init__(self, path: Path, shard_size: int):
        self._path, self._shard_size = path, shard_size
        self._tables: list[ShardTable] = []
        self._archive: tarfile.TarFile | None = None
        self._num_samples = 0
        (path / SHARD_FOLDER).mkdir(parents=True)

    def add(self, name: str, image: bytes, mask: bytes, record: Mapping[str, Any]) -> None:
        if self._num_samples == self._shard_size:
            self._end_shard()
        if self._archive is None:
            self._archive = tarfile.open(self._path / shard_name(len(self._tables)), "w")
        key = key_from_name(name)
        self._add_member(key + IMAGE_SUFFIX, image)
        self._add_member(key + MASK_SUFFIX, mask)
        self._add_member(key + RECORD_SUFFIX, json.dumps({"name": name, **record}).encode())
        self._num_samples += 1

    def finish(self, index: bytes) -> None:
        if self._archive is not None:
            self._end_shard()
        _write(self._path / SHARD_INDEX_NAME, dump_tables(self._tables))
        _write(self._path / INDEX_NAME, index)

    def close(self) -> None:
        if self._archive is not None:
            self._archive.close()

    def _add_member(self, name: str, content: bytes) -> None:
        # The time stamp stays at its default of 0, so that the same data set has the same bytes.
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._archive.addfile(member, io.BytesIO(content))

    def _end_shard(self) -> None:
        self._archive.close()
        self._archive, self._num_samples = None, 0
        self._tables.append(scan_shard(self._path, shard_name(len(self._tables))))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
