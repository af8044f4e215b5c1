"""An interrupted edit resumes bit for bit, takes more steps, and shows a preview while it runs."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from editing import progress
from editing.loop import EditLoop
from editing.options import EditOptions, LossWeights
from editing.progress import restore, state_of, state_path, write_state
from mate3d.checkpoint import load_generator, save_generator
from mate3d.checkpoints.storage import load_document
from mate3d.label_files import load_label_map
from mate3d.labels import CATMASK_HQ, save_label_map
from scripts import edit
from tests.editing.conftest import PAPER
from tests.editing.test_loop import make_loop
from tests.processes import killed_at_line

FAST = ["debug=tiny", "device=cpu", "report.num_orbit_frames=1", "preview_steps=0"]
SMALL = {"num_steps": 8, "num_geometry_points": 64}
WS_FIRST = {"learnable": ("ws", "texture", "shape"), "ws_share": 0.5}
VARIANTS = {
    "denoised": EditOptions(**SMALL),
    "sds": dataclasses.replace(PAPER, **SMALL),
    "ws_first": EditOptions(**SMALL, **WS_FIRST, soft_thickness=0.5, soft_share=0.7),
    "mask_only": EditOptions(**SMALL, weights=LossWeights(distillation=0)),
}


def continued(loop, path, make):
    """Write the state of a loop, and return a new one that continues from the file."""
    write_state(path, state_of(loop))
    torch.rand(3)  # Nothing may depend on the global random numbers.
    other = make()
    restore(other, load_document(path))
    return other


def assert_same(one, other):
    state = one.edited.edit_state()
    for name, value in other.edited.edit_state().items():
        assert torch.equal(value, state[name]), name
    assert one.history == other.history and one.norms == other.norms
    assert (one.num_steps, one.num_skipped) == (other.num_steps, other.num_skipped)
    assert one.optimizer.param_groups[0]["lr"] == other.optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_edit_that_is_interrupted_at_every_step_equals_one_that_is_not(
    tiny_generator, tiny_ws, camera, fake_guidance, tmp_path, variant
):
    options = VARIANTS[variant]
    guidance = fake_guidance if options.weights.distillation else None

    def make():
        return make_loop(tiny_generator, tiny_ws, camera, guidance, options)

    whole, loop = make(), make()
    whole.run()
    for _ in range(options.num_steps):
        loop.run(lambda: True)
        loop = continued(loop, tmp_path / "edit_state.pt", make)
    assert_same(loop, whole)
    assert any(value.any() for value in loop.edited.offsets.values())


def test_skipped_steps_and_the_state_to_go_back_to_are_part_of_it(
    tiny_generator, tiny_ws, camera, fake_guidance, tmp_path
):
    good = fake_guidance.noise_pred.clone()

    def make():
        fake_guidance.noise_pred.copy_(good)
        return make_loop(tiny_generator, tiny_ws, camera, fake_guidance, VARIANTS["sds"])

    def stop_after(last, loop):
        """Steps from the third on are broken."""

        def between() -> bool:
            is_bad = loop.num_steps >= 2
            fake_guidance.noise_pred.copy_(good * (float("inf") if is_bad else 1))
            return loop.num_steps == last

        return between

    whole = make()
    whole.run(stop_after(100, whole))
    first = make()
    first.run(stop_after(4, first))
    loop = continued(first, tmp_path / "edit_state.pt", make)
    stop_after(100, loop)()
    loop.run(stop_after(100, loop))
    assert loop.num_steps == 7  # Five broken steps in a row end the edit.
    assert_same(loop, whole)


def test_more_steps_keep_the_last_learning_rate(
    tiny_generator, tiny_ws, camera, fake_guidance, tmp_path
):
    options = VARIANTS["denoised"]

    def make():
        return make_loop(tiny_generator, tiny_ws, camera, fake_guidance, options)

    loop = make()
    first = list(loop.run())
    loop = continued(loop, tmp_path / "edit_state.pt", make)
    rates = [group["lr"] for group in loop.optimizer.param_groups]
    starts = [group["initial_lr"] for group in loop.optimizer.param_groups]
    assert rates == pytest.approx([options.final_lr_factor * rate for rate in starts])
    loop.planned_steps = 11
    assert len(loop.run()) == 11 and loop.history[:8] == first
    assert [group["lr"] for group in loop.optimizer.param_groups] == rates


@pytest.fixture(scope="module")
def words(generator_folder, prior_folder, tmp_path_factory):
    """A command line without its output folder, with six steps."""
    folder = tmp_path_factory.mktemp("source")
    edit.main([*FAST, f"generator={generator_folder}", f"output={folder}"])
    label_map = load_label_map(folder / "paint_me.png", CATMASK_HQ)
    label_map[8:24, 8:24] = CATMASK_HQ.class_id("ears")
    save_label_map(folder / "painted.png", label_map, CATMASK_HQ)
    paths = [f"generator={generator_folder}", f"guidance.prior={prior_folder}"]
    return [*FAST, *paths, f"mask={folder / 'painted.png'}", "prompt=x", "edit.num_steps=6"]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """The folder of an edit without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    edit.main([*words, f"output={folder}"])
    return folder


@pytest.fixture
def interrupt(monkeypatch):
    """Return a function after which the process gets a signal in the given steps."""
    step, pending = EditLoop.step, []

    def step_and_signal(self, share):
        if pending and self.num_steps + 1 == pending[0][0]:
            os.kill(os.getpid(), pending.pop(0)[1])
        return step(self, share)

    monkeypatch.setattr(EditLoop, "step", step_and_signal)
    return lambda number, which=signal.SIGTERM: pending.append((number, which))


def assert_same_files(folder, other):
    tensors = load_file(other / "edit.safetensors")
    for name, value in load_file(folder / "edit.safetensors").items():
        assert torch.equal(value, tensors[name]), name
    for name in ("edited.png", "views.png", "edited_mask.png"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def receipt_of(folder):
    return json.loads((folder / "receipt.json").read_text())


def test_a_stopped_edit_says_how_to_resume_and_then_equals_a_whole_one(
    words, whole, tmp_path, interrupt, capsys
):
    request = [*words, f"output={tmp_path}"]
    interrupt(2)
    edit.main(request)
    assert "resume=true" in capsys.readouterr().out
    assert (receipt_of(tmp_path)["num_steps"], receipt_of(tmp_path)["num_steps_planned"]) == (2, 6)
    interrupt(4)
    edit.main([*request, "resume=true"])
    assert receipt_of(tmp_path)["num_steps"] == 4
    edit.main([*request, "resume=true", "report.orbit_fps=12"])
    assert "resuming after step 4 of 6" in capsys.readouterr().out
    assert_same_files(tmp_path, whole)
    receipt, expected = receipt_of(tmp_path), receipt_of(whole)
    assert receipt["num_steps"] == 6 and receipt["summary"] == expected["summary"]


def test_a_killed_edit_resumes_from_the_last_state(words, whole, tmp_path, interrupt, monkeypatch):
    monkeypatch.setattr(progress, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_LEAST_WRITES", 0)
    request = [*words, f"output={tmp_path}"]

    def run() -> None:
        interrupt(4, signal.SIGKILL)
        edit.main(request)

    assert killed_at_line(run, 0)  # At no line: by the signal.
    assert not (tmp_path / "receipt.json").exists()
    assert load_document(state_path(tmp_path))["num_steps"] == 3
    interrupt(0)  # The step that was for the other process does not come.
    edit.main([*request, "resume=auto"])
    assert_same_files(tmp_path, whole)
    assert not list(tmp_path.glob(".partial*"))


def test_other_options_are_named_and_change_nothing(words, whole, tmp_path, fail, capsys):
    request, before = [*words, f"output={whole}"], state_path(whole).read_bytes()
    message = fail(edit.main, *request, "resume=true", "edit.seed=3", "edit.num_steps=9")
    assert "edit.seed=3 instead of null" in message and "edit.num_steps=9 instead of 6" in message
    painted = tmp_path / "painted.png"
    save_label_map(painted, load_label_map(whole / "source_mask.png", CATMASK_HQ), CATMASK_HQ)
    assert "masks=[content" in fail(edit.main, *request, "more_steps=1", f"mask={painted}")
    assert state_path(whole).read_bytes() == before
    other = load_generator(words[len(FAST)].removeprefix("generator="))
    next(other.parameters()).mul_(2)
    save_generator(tmp_path / "other", other)
    words = [*words[: len(FAST)], f"generator={tmp_path / 'other'}", *words[len(FAST) + 1 :]]
    assert "weights=" in fail(edit.main, *words, f"output={whole}", "resume=true")
    empty = tmp_path / "empty"
    for word in ("resume=true", "more_steps=2"):
        assert "not found" in fail(edit.main, *words, f"output={empty}", word)
        assert "mask and prompt" in fail(edit.main, *FAST, f"output={empty}", word)
    state_path(tmp_path).write_bytes(b"broken")
    assert "cannot be read" in fail(edit.main, *words, f"output={tmp_path}", "resume=true")


@pytest.mark.slow
def test_more_steps_follow_a_finished_edit_alone(words, whole, tmp_path, interrupt, fail):
    request = [*words, f"output={tmp_path}"]
    interrupt(3)
    edit.main(request)
    assert "is not finished" in fail(edit.main, *request, "more_steps=2")
    edit.main([*request, "resume=true"])
    interrupt(7)
    edit.main([*request, "more_steps=2"])
    assert (receipt_of(tmp_path)["num_steps"], receipt_of(tmp_path)["num_steps_planned"]) == (7, 8)
    edit.main([*request, "resume=true"])
    assert receipt_of(tmp_path)["num_steps"] == 8
    assert (tmp_path / "edited.png").read_bytes() != (whole / "edited.png").read_bytes()
    edit.main([*request, "resume=true", "keep_state_mib=0"])
    assert not state_path(tmp_path).exists()
    assert "not found" in fail(edit.main, *request, "more_steps=2")


@pytest.mark.slow
def test_samples_resume_where_the_first_unfinished_one_was(words, tmp_path, interrupt):
    request = [*words, "num_samples=2"]
    edit.main([*request, f"output={tmp_path / 'whole'}"])
    interrupt(1, 0)  # The first sample goes through.
    interrupt(3)
    edit.main([*request, f"output={tmp_path / 'parts'}"])
    edit.main([*request, f"output={tmp_path / 'parts'}", "resume=true"])
    assert_same_files(tmp_path / "parts", tmp_path / "whole")
    samples = [receipt_of(tmp_path / name)["samples"] for name in ("parts", "whole")]
    assert samples[0] == samples[1] and len(samples[0]) == 2


@pytest.mark.slow
def test_a_list_resumes_its_edits(words, whole, tmp_path, interrupt, capsys):
    (tmp_path / "edits.yaml").write_text("[{name: one}]")
    request = [*words, f"edits={tmp_path / 'edits.yaml'}", f"output={tmp_path}"]
    interrupt(4)
    edit.main(request)
    edit.main(request)
    assert "resuming after step 4 of 6" in capsys.readouterr().out
    assert_same_files(tmp_path / "one", whole)


def test_previews_show_the_head_as_it_is_and_go_with_the_results(words, tmp_path, monkeypatch):
    seen, step = [], EditLoop.step

    def look(self, share):
        path = tmp_path / progress.PREVIEW_FILE
        seen.append(np.asarray(Image.open(path)) if path.exists() else None)
        return step(self, share)

    monkeypatch.setattr(EditLoop, "step", look)
    edit.main([*words, f"output={tmp_path}", "preview_steps=2"])
    assert [picture is None for picture in seen] == [True, True, *[False] * 4]
    assert seen[2].shape == (32, 64, 3)
    assert np.array_equal(seen[2], seen[3]) and not np.array_equal(seen[3], seen[4])
    source = np.asarray(Image.open(tmp_path / "source.png")).astype(int)
    assert 0 < np.abs(seen[2][:, :32] - source).max()
    assert np.abs(seen[2][:, :32] - source).mean() < np.abs(seen[2][:, 32:] - source).mean()
    assert not (tmp_path / progress.PREVIEW_FILE).exists()
    seen.clear()
    edit.main([*words, f"output={tmp_path}", "preview_steps=0"])
    assert not any(picture is not None for picture in seen)
