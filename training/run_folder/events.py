"""What happened to a run, one line of JSON each: starts, resumes, stops, rollbacks."""

import json
import math
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mate3d.errors import UserError

EVENTS_FILE = "events.jsonl"


def log_event(run_folder: Path, kind: str, images_seen: int, reason: str, **more: Any) -> None:
    """Append to `events.jsonl`.

    Args:
        run_folder: Exists.
        kind: One word, such as rollback.
        images_seen: Where training stood.
        reason: Why, for a user to read.
        more: Further plain values; numbers that are not finite become texts.

    Raises:
        UserError: If the file cannot be written.
    """
    event = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "images_seen": images_seen,
        "kind": kind,
        "reason": reason,
        **more,
    }
    line = json.dumps(_finite(event), allow_nan=False) + "\n"
    path = run_folder / EVENTS_FILE
    try:
        # A kill may have cut the last line short; this one shall stand alone.
        with path.open("a+b") as file:
            if file.tell() > 0:
                file.seek(-1, 2)
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def read_events(run_folder: Path) -> list[dict[str, Any]]:
    """Return all events in their order; a line that a kill cut short is left out."""
    path = run_folder / EVENTS_FILE
    if not path.exists():
        return []
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
