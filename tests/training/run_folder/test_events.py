"""Events are lines of JSON that any reader takes, also after a kill."""

import json
from datetime import datetime

import pytest

from mate3d.errors import UserError
from tests.processes import error_with_file_limit
from training.run_folder.events import EVENTS_FILE, log_event, read_events


def test_events_come_back_in_order(tmp_path):
    assert read_events(tmp_path) == []
    log_event(tmp_path, "start", 0, "new run", seed=3)
    log_event(tmp_path, "rollback", 8, "Loss/G/loss is NaN", value=float("nan"), back_to=4)
    first, second = read_events(tmp_path)
    assert datetime.fromisoformat(first.pop("time")).utcoffset().total_seconds() == 0
    assert first == {"images_seen": 0, "kind": "start", "reason": "new run", "seed": 3}
    assert second["value"] == "nan" and second["back_to"] == 4
    for line in (tmp_path / EVENTS_FILE).read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_line_that_a_kill_cut_short_spoils_no_other(tmp_path):
    log_event(tmp_path, "start", 0, "new run")
    with (tmp_path / EVENTS_FILE).open("a") as file:
        file.write('{"time": "20')
    log_event(tmp_path, "resume", 4, "resume=true")
    assert [event["kind"] for event in read_events(tmp_path)] == ["start", "resume"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot write .*events.jsonl: No such file"):
        log_event(tmp_path / "missing", "start", 0, "new run")
    message = error_with_file_limit(lambda: log_event(tmp_path, "start", 0, "new run"), 10)
    assert message == f"UserError: cannot write {tmp_path}/events.jsonl: File too large"
