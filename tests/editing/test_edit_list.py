"""Lists of edits: read, made, compared, and made again."""

import json
import re

import pytest
import yaml

import editing.portrait_edit
from editing.loop import EditLoop
from editing.session import run_edit
from mate3d.label_files import load_label_map
from mate3d.labels import CATMASK_HQ, save_label_map
from scripts import edit

FAST = ["debug=tiny", "device=cpu", "edit.num_steps=1", "report.num_orbit_frames=1"]


@pytest.fixture
def words(generator_folder, prior_folder, tmp_path):
    """A command line with a list, but for the list itself; its folder holds a painted mask."""
    words = [*FAST, f"generator={generator_folder}", f"guidance.prior={prior_folder}"]
    edit.main([*words, f"output={tmp_path / 'source'}"])
    label_map = load_label_map(tmp_path / "source" / "paint_me.png", CATMASK_HQ)
    label_map[8:24, 8:24] = CATMASK_HQ.class_id("ears")
    save_label_map(tmp_path / "painted.png", label_map, CATMASK_HQ)
    return [*words, f"edits={tmp_path / 'edits.yaml'}", f"output={tmp_path / 'out'}"]


@pytest.fixture
def requests(monkeypatch):
    """The requests of all edits that were made."""
    requests = []

    def note(portrait, request, *args, **options):
        requests.append(request)
        return run_edit(portrait, request, *args, **options)

    monkeypatch.setattr(editing.portrait_edit, "run_edit", note)
    return requests


def write_list(folder, *entries):
    (folder / "edits.yaml").write_text(yaml.safe_dump(list(entries)))


ORANGE = {"name": "orange", "prompt": "an orange cat", "seed": 3}
EARS = {"name": "ears", "mask": "painted.png", "edit": "mask_only", "edit.num_steps": 2}


@pytest.mark.slow
def test_failures_do_not_stop_the_rest_and_done_edits_are_skipped(
    words, requests, tmp_path, fail, capsys, monkeypatch
):
    loads = []
    load = editing.portrait_edit.load_guidance
    monkeypatch.setattr(
        editing.portrait_edit, "load_guidance", lambda *each: loads.append(each) or load(*each)
    )
    both = {"name": "both", "prompt": "x", "views": [{"mask": "painted.png"}]}
    write_list(tmp_path, {"name": "missing", "mask": "no.png", "prompt": "x"}, ORANGE, EARS, both)
    assert fail(edit.main, *words) == "error: 1 of 4 edits failed: missing"
    assert len(loads) == 1
    orange, ears, _ = requests
    assert (orange.prompt, orange.seed, len(orange.class_ids)) == ("an orange cat", 3, 5)
    assert (ears.prompt, ears.class_ids) == ("", (2,))
    page = (tmp_path / "out" / "index.html").read_text()
    assert "mask not found" in page
    for name in re.findall('(?:src|href)="([^"]+)"', page):
        assert (tmp_path / "out" / name).is_file(), name
    config = yaml.safe_load((tmp_path / "out" / "ears" / "config.yaml").read_text())
    assert config["mask"] == str(tmp_path / "painted.png") and config["edit"]["num_steps"] == 2

    requests.clear()
    fail(edit.main, *words)
    assert not requests
    label_map = load_label_map(tmp_path / "painted.png", CATMASK_HQ)
    label_map[8:12, 8:12] = 1
    save_label_map(tmp_path / "painted.png", label_map, CATMASK_HQ)
    write_list(tmp_path, ORANGE | {"prompt": "a red cat"}, EARS)
    edit.main(words)
    assert [each.prompt for each in requests] == ["a red cat", ""]
    receipt = json.loads((tmp_path / "out" / "orange" / "receipt.json").read_text())
    assert receipt["prompt"] == "a red cat"


def test_a_list_that_was_stopped_goes_on_where_it_was(words, requests, tmp_path, monkeypatch):
    run = EditLoop.run

    def stop(self, should_stop):
        history = run(self, should_stop)
        monkeypatch.setattr("torch_utils.interruption._received", [2])
        return history

    write_list(tmp_path, EARS, ORANGE)
    monkeypatch.setattr(EditLoop, "run", stop)
    edit.main(words)
    assert [each.prompt for each in requests] == [""]
    assert "not made yet" in (tmp_path / "out" / "index.html").read_text()
    monkeypatch.setattr(EditLoop, "run", run)
    edit.main(words)
    assert [each.prompt for each in requests] == ["", "an orange cat"]


def test_an_edit_that_skipped_a_step_is_complete(words, requests, tmp_path, monkeypatch, capsys):
    descend, skips = EditLoop._descend, [True]

    def skip_first(loop, *args):
        return False if skips and skips.pop() else descend(loop, *args)

    monkeypatch.setattr(EditLoop, "_descend", skip_first)
    write_list(tmp_path, EARS)
    edit.main(words)
    monkeypatch.setattr(EditLoop, "_descend", descend)
    receipt = json.loads((tmp_path / "out" / "ears" / "receipt.json").read_text())
    assert (receipt["num_steps"], receipt["num_steps_skipped"]) == (2, 1)
    assert "stopped" not in capsys.readouterr().out
    edit.main(words)
    assert len(requests) == 1


def test_a_receipt_of_another_format_does_not_count(words, requests, tmp_path):
    for name in ("ears", "orange"):
        folder = tmp_path / "out" / name
        folder.mkdir(parents=True)
        (folder / "receipt.json").write_text('{"prompt": "a cat", "num_steps": 2}')
    write_list(tmp_path, EARS, ORANGE)
    edit.main(words)
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "is not a list"),
        ([{"prompt": "x"}], "edit 1 of .* needs a name"),
        ([{"name": "../x", "prompt": "x"}], "needs a name"),
        ([ORANGE, ORANGE], "edit 2 of .* has the name orange"),
        ([ORANGE | {"promt": "x"}], "orange: unknown option 'promt'; did you mean prompt"),
        ([ORANGE | {"edit.num_steps": "many"}], "edit.num_steps=many; use an integer"),
        ([ORANGE | {"edit": {"num_steps": 0}}], "edit.num_steps=0"),
        ([ORANGE | {"edit": "magic"}], "unknown choice edit=magic"),
        ([ORANGE | {"generator": "x"}], "generator is common to all edits"),
        ([ORANGE | {"guidance.prior": "x"}], "guidance.prior is common"),
        ([{"name": "nothing"}], "nothing: an edit needs a mask, views or a prompt"),
        ([ORANGE | {"views": [3]}], "views"),
    ],
)
def test_a_list_with_a_mistake_is_refused_before_anything_runs(
    words, tmp_path, fail, requests, entries, message
):
    write_list(tmp_path, *entries)
    assert re.search(message, fail(edit.main, *words))
    assert not requests and not (tmp_path / "out" / "index.html").exists()


def test_an_edit_of_a_list_starts_from_an_earlier_one(words, tmp_path, capsys):
    first = {"name": "first", "mask": "painted.png", "edit": "mask_only"}
    second = {**first, "name": "second", "source": "first", "edit_classes": ["ears", "nose"]}
    broken = {"name": "broken", "source": "missing", "prompt": "x"}
    write_list(
        tmp_path, first, broken, second, {"name": "half", "source": "second", "strength": 0.5}
    )
    with pytest.raises(SystemExit) as error:
        edit.main(words)
    assert error.value.code == 2
    assert "no such seed, latent file or edit" in (tmp_path / "out" / "index.html").read_text()
    capsys.readouterr()
    for name in ("second", "half"):
        receipt = json.loads((tmp_path / "out" / name / "receipt.json").read_text())
        assert receipt["chain"]["num_edits"] == 2
    with pytest.raises(SystemExit):
        edit.main(words)
    printed = capsys.readouterr()
    assert all(f"{name} is done already" in printed.out for name in ("first", "second", "half"))
