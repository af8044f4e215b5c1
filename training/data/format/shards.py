"""Tar shards in the WebDataset convention, with random access to what they hold.

A shard holds KEY.image.png, KEY.mask.png and KEY.json of each sample one after the other.
`shards/index.json` says where every image and mask lies; without it local shards are scanned.
"""

import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mate3d.errors import UserError
from training.data.format.json_reading import is_whole, parse_json
from training.data.format.layout import (
    IMAGE_FOLDER,
    INDEX_NAME,
    SHARD_FOLDER,
    SHARD_INDEX_NAME,
    check_name,
    is_member_of,
    name_from_member,
)
from training.data.format.remote import file_url, read_file

_BLOCK = 512


@dataclass(frozen=True)
class ShardTable:
    """Where a shard's files lie.

    Args:
        file: Path of the shard relative to the data set.
        num_bytes: Size of the shard.
        members: Offset and size in bytes of `images/NAME` and `masks/NAME`, in the shard's order.
    """

    file: str
    num_bytes: int
    members: Mapping[str, tuple[int, int]]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the images, in the shard's order."""
        names = (name for name in self.members if name.startswith(IMAGE_FOLDER))
        return tuple(name.removeprefix(IMAGE_FOLDER) for name in names)


class ShardFiles(ABC):
    """The tree that a data set in shards was made from.

    Args:
        location: Folder, URL or command, as a user gives it.
        tables: Of all shards, in the order of their names.
    """

    def __init__(self, location: str, tables: tuple[ShardTable, ...]):
        self.location, self.tables = location, tables
        self._tables = {name: table for table in tables for name in table.members}
        count = sum(len(table.members) for table in tables)
        if len(self._tables) != count:
            raise UserError(
                f"data set {location}: {count - len(self._tables)} name(s) are in its shards twice"
            )

    @abstractmethod
    def url(self, file: str) -> str:
        """Return path, URL or command that reads a file of the data set."""

    def names(self) -> list[str]:
        return sorted([INDEX_NAME, *self._tables])

    def where(self, name: str) -> str:
        table = self._tables.get(name)
        return self.url(name) if table is None else f"{name} in {self.url(table.file)}"

    def read(self, name: str) -> bytes:
        table = self._tables.get(name)
        if table is None:
            return self._read(name, 0, -1)
        return self._read(table.file, *table.members[name])

    @abstractmethod
    def _read(self, file: str, offset: int, size: int) -> bytes:
        """Return `size` bytes of a file from an offset on; all that follow if it is -1."""


class LocalShardFiles(ShardFiles):
    """Shards in a folder; each read is one seek, and compares the name at that place.

    Raises:
        UserError: If a shard is missing, damaged, or not what the index says.
    """

    def __init__(self, path: Path):
        self.path = path
        super().__init__(str(path), _read_local_tables(path))

    def names(self) -> list[str]:
        return [name for name in super().names() if name != INDEX_NAME or self._has_index]

    def url(self, file: str) -> str:
        return str(self.path / file)

    def read(self, name: str) -> bytes:
        table = self._tables.get(name)
        if table is None:
            return super().read(name)
        offset, size = table.members[name]
        content = self._read(table.file, offset - _BLOCK, size + _BLOCK)
        if not _is_header_of(content[:_BLOCK], name, size):
            raise UserError(
                f"shard {self.path / table.file} is damaged or not what its index says: {name} is "
                f"not at byte {offset}; remove {SHARD_INDEX_NAME} to have shards scanned"
            )
        return content[_BLOCK:]

    @property
    def _has_index(self) -> bool:
        return (self.path / INDEX_NAME).is_file()

    def _read(self, file: str, offset: int, size: int) -> bytes:
        try:
            with (self.path / file).open("rb", buffering=0) as stream:
                stream.seek(offset)
                content = stream.read(size)
        except OSError as error:
            raise UserError(f"cannot read {self.path / file}: {error.strerror}") from None
        if size >= 0 and len(content) < size:
            raise UserError(f"shard {self.path / file} ends before byte {offset + size}")
        return content


class RemoteShardFiles(ShardFiles):
    """Shards behind a URL or command; each read starts at the shard's beginning, so stream them.

    Raises:
        UserError: If `shards/index.json` cannot be read.
    """

    def __init__(self, location: str):
        index = file_url(location, SHARD_INDEX_NAME)
        super().__init__(location, _parse_tables(read_file(index), index))

    def url(self, file: str) -> str:
        return file_url(self.location, file)

    def _read(self, file: str, offset: int, size: int) -> bytes:
        return read_file(self.url(file), offset, size)


def list_shards(path: Path) -> list[str]:
    """Return the shards of a data set in a folder, relative to it, sorted."""
    return sorted(
        shard.relative_to(path).as_posix() for shard in (path / SHARD_FOLDER).glob("*.tar")
    )


def scan_shard(path: Path, file: str) -> ShardTable:
    """Find the images and masks of the shard `file` of the data set `path`.

    Raises:
        UserError: If the shard is missing, damaged or truncated.
    """
    shard = path / file
    try:
        num_bytes = shard.stat().st_size
        with tarfile.open(shard, "r:") as archive:
            members = {
                name_from_member(member.name): (member.offset_data, member.size)
                for member in archive
                if member.isreg()
            }
            end = archive.offset
    except tarfile.TarError as error:
        raise UserError(f"shard {shard} is damaged or truncated: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read shard {shard}: {error.strerror}") from None
    # A tar file ends with a block of zeros; where it stops before that, tarfile is silent.
    if end + _BLOCK > num_bytes:
        raise UserError(f"shard {shard} is damaged or truncated: it has no end mark")
    members.pop(None, None)
    return ShardTable(file, num_bytes, members)


def dump_tables(tables: list[ShardTable]) -> bytes:
    """Return the content of `shards/index.json`."""
    return json.dumps({"shards": [asdict(table) for table in tables]}).encode()


def _read_local_tables(path: Path) -> tuple[ShardTable, ...]:
    """Return the index where there is one, compared with the shards, or scan them."""
    files, index = list_shards(path), path / SHARD_INDEX_NAME
    if not index.is_file():
        return tuple(scan_shard(path, file) for file in files)
    try:
        tables = _parse_tables(index.read_bytes(), str(index))
    except OSError as error:
        raise UserError(f"cannot read {index}: {error.strerror}") from None
    listed = {table.file for table in tables}
    missing, extra = sorted(listed - set(files)), sorted(set(files) - listed)
    if missing:
        raise UserError(
            f"data set {path} has {len(files)} shards, {index} lists {len(listed)}: "
            f"{missing[0]} is missing"
        )
    if extra:
        raise UserError(
            f"{index} lists {len(listed)} shards, data set {path} has {len(files)}: {extra[0]} is "
            f"not listed; remove it, or remove {SHARD_INDEX_NAME} to use all"
        )
    for table in tables:
        num_bytes = (path / table.file).stat().st_size
        if num_bytes != table.num_bytes:
            raise UserError(
                f"shard {path / table.file} has {num_bytes} bytes, {index} says {table.num_bytes}; "
                "it is truncated or was replaced"
            )
    return tables


def _is_header_of(header: bytes, name: str, size: int) -> bool:
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "replace")
    except tarfile.TarError:
        return False
    return member.size == size and is_member_of(member.name, name)


def _parse_tables(content: bytes, where: str) -> tuple[ShardTable, ...]:
    try:
        tables = [_parse_table(entry) for entry in parse_json(content, "it")["shards"]]
    except UserError as error:
        raise UserError(f"{where}: {error}; remove it to have local shards scanned") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{where} is not an index of shards; remove it to have local shards scanned"
        ) from None
    if not tables:
        raise UserError(f"{where} lists no shards")
    return tuple(sorted(tables, key=lambda table: table.file))


def _parse_table(entry: dict[str, Any]) -> ShardTable:
    file, num_bytes = entry["file"], entry["num_bytes"]
    members = {name: (offset, size) for name, (offset, size) in entry["members"].items()}
    for name in (file, *members):
        check_name(name)
    for name, (offset, size) in members.items():
        # A header comes before each file, and the end mark after the last.
        fits = is_whole(offset, _BLOCK, num_bytes) and is_whole(size, 0, num_bytes - offset)
        if not fits:
            raise UserError(f"its entry of {name} lies outside of {file}")
    return ShardTable(file, num_bytes, members)
