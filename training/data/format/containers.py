"""Output containers of a dataset: folder, uncompressed zip, or tar shards."""

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from webdataset import TarWriter

import training.data.format.layout as layout
from training.data.format.shards import ShardTable, dump_tables, scan_shard


class Container(ABC):
    """A dataset being written."""

    _archive: zipfile.ZipFile | TarWriter | None = None

    def add(self, name: str, image: bytes, mask: bytes, record: Mapping[str, Any]) -> None:
        """Write one sample; `record` contains its other data."""
        self._write(layout.IMAGE_FOLDER + name, image)
        self._write(layout.MASK_FOLDER + name, mask)

    def finish(self, index: bytes) -> None:
        """Write `dataset.json`."""
        self._write(layout.INDEX_NAME, index)

    def close(self) -> None:
        """Close any open archive."""
        if self._archive is not None:
            self._archive.close()

    @abstractmethod
    def _write(self, name: str, content: bytes) -> None:
        """Write one file."""


class FolderContainer(Container):
    """Files in a folder."""

    def __init__(self, path: Path):
        self._path = path

    def _write(self, name: str, content: bytes) -> None:
        (self._path / name).parent.mkdir(parents=True, exist_ok=True)
        (self._path / name).write_bytes(content)


class ZipContainer(Container):
    """The same tree in an uncompressed zip."""

    def __init__(self, path: Path):
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)

    def _write(self, name: str, content: bytes) -> None:
        # A fixed timestamp, so that equal datasets have equal bytes.
        self._archive.writestr(zipfile.ZipInfo(name), content)


class ShardContainer(FolderContainer):
    """Tar shards of `shard_size` samples in the WebDataset convention, and their index."""

    def __init__(self, path: Path, shard_size: int):
        super().__init__(path)
        self._shard_size, self._num_samples = shard_size, 0
        self._tables: list[ShardTable] = []
        (path / layout.SHARD_FOLDER).mkdir()

    def add(self, name: str, image: bytes, mask: bytes, record: Mapping[str, Any]) -> None:
        if self._num_samples % self._shard_size == 0:
            self._end_shard()
            path = str(self._path / layout.shard_name(len(self._tables)))
            self._archive = TarWriter(path, mtime=0, mode=0o644, user="", group="")
        members = {"image.png": image, "mask.png": mask, "json": {"name": name, **record}}
        self._archive.write({"__key__": layout.key_from_name(name), **members})
        self._num_samples += 1

    def finish(self, index: bytes) -> None:
        self._end_shard()
        self._write(layout.SHARD_INDEX_NAME, dump_tables(self._tables))
        super().finish(index)

    def _end_shard(self) -> None:
        if self._archive is not None:
            self.close()
            self._archive = None
            self._tables.append(scan_shard(self._path, layout.shard_name(len(self._tables))))
