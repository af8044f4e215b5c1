"""Events are lines of JSON that any reader takes, also after a kill."""

from datetime import datetime

from tests.processes import error_with_file_limit
from training.run_folder.events import EVENTS_FILE, log_event, read_events


def test_events_come_back_in_order_whatever_a_kill_cut_short(tmp_path):
    assert read_events(tmp_path) == []
    log_event(tmp_path, "start", 0, "new run", seed=3)
    with (tmp_path / EVENTS_FILE).open("a") as file:
        file.write('{"time": "20')
    log_event(tmp_path, "rollback", 8, "Loss/G/loss is NaN", back_to=4)
    first, second = read_events(tmp_path)
    assert datetime.fromisoformat(first.pop("time")).utcoffset().total_seconds() == 0
    assert first == {"images_seen": 0, "kind": "start", "reason": "new run", "seed": 3}
    assert second["back_to"] == 4


def test_a_place_that_cannot_be_written_is_named_and_as_it_was(tmp_path):
    message = error_with_file_limit(lambda: log_event(tmp_path, "start", 0, "new run"), 10)
    assert message == f"UserError: cannot write {tmp_path}/events.jsonl: File too large"
    assert (tmp_path / EVENTS_FILE).read_bytes() == b""
