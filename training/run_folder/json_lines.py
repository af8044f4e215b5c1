"""Files with one JSON object per line, each for a number of images seen."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mate3d.atomic import AppendedFile, atomic_file

STATS_FILE = "stats.jsonl"


class JsonLines(AppendedFile):
    """A file that stays readable after kills; see `AppendedFile` for a full disk."""

    def write(self, values: Mapping[str, Any]) -> None:
        """Append a line; if a kill cut the previous one short, start on a new line.

        Raises:
            OSError: If the disk is full; the line waits.
        """
        line = json.dumps(values) + "\n"
        if self.path.exists() and self.path.stat().st_size > 0:
            with self.path.open("rb") as file:
                file.seek(-1, 2)
                line = line if file.read() == b"\n" else "\n" + line
        self.append(line.encode())

    def rewind(self, images_seen: int) -> None:
        """Remove lines after the state that a run returns to, and an incomplete last line.

        Raises:
            OSError: If the disk is full.
            UserError: If the file cannot be replaced.
        """
        self.flush()
        kept = [line for line in read_lines(self.path) if line["images_seen"] <= images_seen]
        content = "".join(json.dumps(line) + "\n" for line in kept)
        if self.path.exists() and content != self.path.read_text(errors="replace"):
            with atomic_file(self.path) as temporary:
                temporary.write_text(content)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return all objects in order, without damaged or incomplete lines."""
    lines = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                values = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(values, dict) and "images_seen" in values:
                lines.append(values)
    return lines
