"""Tar shards in the WebDataset convention, with random access to their contents.

A shard contains KEY.image.png, KEY.mask.png and KEY.json of each sample in turn.
`shards/index.json` lists the position of every image and mask; without it, local shards are
scanned.
"""

import json
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import training.data.format.layout as layout
from mate3d.errors import UserError
from training.data.format.json_reading import is_whole, parse_json
from training.data.format.remote import file_url, is_remote, read_file

_BLOCK = 512


@dataclass(frozen=True)
class ShardTable:
    """Positions of the files in a shard."""

    file: str  # path of the shard relative to the dataset
    num_bytes: int
    # Offset and size in bytes of `images/NAME` and `masks/NAME`, in the shard's order.
    members: Mapping[str, tuple[int, int]]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the images, in the shard's order."""
        names = (name for name in self.members if name.startswith(layout.IMAGE_FOLDER))
        return tuple(name.removeprefix(layout.IMAGE_FOLDER) for name in names)


class ShardFiles:
    """The files of a dataset in shards.

    Local files are read with one seek. With a URL or command, each read starts at the beginning of
    the shard, so use streaming.

    Args:
        location: Folder, URL or command.

    Raises:
        UserError: If a shard is missing, damaged, or does not match the index, or a URL or command
            has no index.
    """

    def __init__(self, location: str):
        self.location, self.is_remote = location, is_remote(location)
        index = self.url(layout.SHARD_INDEX_NAME)
        if self.is_remote:
            self.tables = _parse_tables(read_file(index), index)
        else:
            self.tables = _read_local_tables(Path(location))
        self._tables = {name: table for table in self.tables for name in table.members}
        num_twice = sum(len(table.members) for table in self.tables) - len(self._tables)
        if num_twice:
            raise UserError(f"dataset {location}: {num_twice} name(s) occur twice in its shards")

    def url(self, file: str) -> str:
        """Return the path, URL or command of a file of the dataset."""
        return file_url(self.location, file) if self.is_remote else f"{self.location}/{file}"

    def names(self) -> list[str]:
        has_index = self.is_remote or Path(self.url(layout.INDEX_NAME)).is_file()
        return sorted([*self._tables, *([layout.INDEX_NAME] if has_index else [])])

    def where(self, name: str) -> str:
        table = self._tables.get(name)
        return self.url(name) if table is None else f"{name} in {self.url(table.file)}"

    def stamp(self, name: str) -> str:
        table = self._tables[name]
        changed = 0 if self.is_remote else Path(self.url(table.file)).stat().st_mtime_ns
        return f"{table.file} {table.members[name]} {changed}"

    def read(self, name: str) -> bytes:
        table = self._tables.get(name)
        file, offset, size = (name, 0, -1) if table is None else (table.file, *table.members[name])
        if self.is_remote:
            return read_file(self.url(file), offset, size)
        try:
            with open(self.url(file), "rb", buffering=0) as stream:
                stream.seek(offset)
                content = stream.read(size)
        except OSError as error:
            raise UserError(f"cannot read {self.url(file)}: {error.strerror}") from None
        if size >= 0 and len(content) < size:
            raise UserError(f"shard {self.url(file)} ends before byte {offset + size}")
        return content


def list_shards(path: Path) -> list[str]:
    """Return the shards of a dataset in a folder, relative to it, sorted."""
    return sorted(
        shard.relative_to(path).as_posix() for shard in (path / layout.SHARD_FOLDER).glob("*.tar")
    )


def scan_shard(path: Path, file: str) -> ShardTable:
    """Find the images and masks in the shard `file` of the dataset `path`.

    Raises:
        UserError: If the shard is missing, damaged or truncated.
    """
    shard = path / file
    try:
        num_bytes = shard.stat().st_size
        with tarfile.open(shard, "r:") as archive:
            members = {
                layout.name_from_member(member.name): (member.offset_data, member.size)
                for member in archive
                if member.isreg()
            }
            end = archive.offset
    except tarfile.TarError as error:
        raise UserError(f"shard {shard} is damaged or truncated: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read shard {shard}: {error.strerror}") from None
    # tarfile does not report a missing end marker (a block of zeros).
    if end + _BLOCK > num_bytes:
        raise UserError(f"shard {shard} is damaged or truncated: no end marker")
    members.pop(None, None)
    return ShardTable(file, num_bytes, members)


def dump_tables(tables: list[ShardTable]) -> bytes:
    """Return the content of `shards/index.json`."""
    return json.dumps({"shards": [asdict(table) for table in tables]}).encode()


def _read_local_tables(path: Path) -> tuple[ShardTable, ...]:
    """Return the index, checked against the shards, or scan them if there is none."""
    files, index = list_shards(path), path / layout.SHARD_INDEX_NAME
    if not index.is_file():
        return tuple(scan_shard(path, file) for file in files)
    tables = _parse_tables(index.read_bytes(), str(index))
    sizes = {file: (path / file).stat().st_size for file in files}
    listed = {table.file: table.num_bytes for table in tables}
    odd = sorted(file for file in sizes | listed if sizes.get(file) != listed.get(file))
    if odd:
        found, said = (
            f"{size[odd[0]]} bytes" if odd[0] in size else "nothing" for size in (sizes, listed)
        )
        raise UserError(
            f"shard {path / odd[0]}: found {found}, expected {said} according to {index}; it is "
            "missing, truncated or was replaced (remove the index to use all shards as they are)"
        )
    return tables


def _parse_tables(content: bytes, where: str) -> tuple[ShardTable, ...]:
    try:
        tables = [_parse_table(entry) for entry in parse_json(content, "it")["shards"]]
    except UserError as error:
        raise UserError(f"{where}: {error}; remove it to scan local shards") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{where} is not an index of shards; remove it to scan local shards"
        ) from None
    if not tables:
        raise UserError(f"{where} lists no shards")
    return tuple(sorted(tables, key=lambda table: table.file))


def _parse_table(entry: dict[str, Any]) -> ShardTable:
    file, num_bytes = entry["file"], entry["num_bytes"]
    members = {name: (offset, size) for name, (offset, size) in entry["members"].items()}
    for name in (file, *members):
        layout.check_name(name)
    for name, (offset, size) in members.items():
        # Each file follows a header, and the end marker follows the last file.
        fits = is_whole(offset, _BLOCK, num_bytes) and is_whole(size, 0, num_bytes - offset)
        if not fits:
            raise UserError(f"entry {name} is outside {file}")
    return ShardTable(file, num_bytes, members)
