"""stats.jsonl: one JSON object a line with `images_seen` and the values of that moment."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mate3d.atomic import atomic_file
from training.run_folder.appended_file import AppendedFile

STATS_FILE = "stats.jsonl"


class StatsFile:
    """Appends records; see `AppendedFile` for a full disk.

    Args:
        run_folder: Holds the file.
    """

    def __init__(self, run_folder: Path):
        self._path = run_folder / STATS_FILE
        self._file = AppendedFile(self._path)

    def write(self, values: Mapping[str, float], images_seen: int) -> None:
        """Append a record.

        Raises:
            OSError: If the disk is full; the record waits.
        """
        line = json.dumps({"images_seen": images_seen, **values}) + "\n"
        self._file.append(line.encode())

    def flush(self) -> None:
        """Write what waits.

        Raises:
            OSError: If the disk is still full.
        """
        self._file.flush()

    def rewind(self, images_seen: int) -> None:
        """Remove what was written after the state that is gone back to, and half a last line.

        Raises:
            OSError: If the disk is full.
            UserError: Likewise.
        """
        self._file.flush()
        if not self._path.exists():
            return
        records = read_records(self._path)
        kept = [record for record in records if record["images_seen"] <= images_seen]
        content = "".join(json.dumps(record) + "\n" for record in kept)
        if content != self._path.read_text():
            with atomic_file(self._path) as temporary:
                temporary.write_text(content)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file of JSON lines; a line that is damaged or cut off is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "images_seen" in record:
            records.append(record)
    return records
