"""A file that grows record by record and survives a full disk."""

from collections import deque
from pathlib import Path
from typing import BinaryIO

# Records that wait for space take no more memory than this; the oldest go first.
_MAX_WAITING_BYTES = 64 * 2**20


class AppendedFile:
    """Appends whole records to a file.

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
            OSError: If they must go on waiting.
        """
        while self._waiting:
            with self.path.open("ab", buffering=0) as file:
                size = file.seek(0, 2)
                try:
                    _write_all(file, self._waiting[0])
                except OSError:
                    file.truncate(size)
                    raise
            self._waiting.popleft()


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
