"""Events of a run: starts, resumes, stops, rollbacks."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mate3d.errors import UserError
from training.run_folder.json_lines import JsonLines, read_lines

EVENTS_FILE = "events.jsonl"


def log_event(run_folder: Path, kind: str, images_seen: int, reason: str, **more: Any) -> None:
    """Append to `events.jsonl`.

    Args:
        kind: One word, such as rollback.
        reason: Explains the event to a user.
        more: Further plain values.

    Raises:
        UserError: If the file cannot be written.
    """
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    event = {"time": time, "images_seen": images_seen, "kind": kind, "reason": reason, **more}
    path = run_folder / EVENTS_FILE
    try:
        JsonLines(path).write(event)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def read_events(run_folder: Path) -> list[dict[str, Any]]:
    """Return all events in order, without lines that a kill cut short."""
    return [event for event in read_lines(run_folder / EVENTS_FILE) if "kind" in event]
