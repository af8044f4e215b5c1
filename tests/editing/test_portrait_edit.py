"""Edits from Python: views, samples, and what an edit returns."""

import doctest
import json

import pytest
import torch
from PIL import Image

import editing.portrait_edit
from editing import edit_portrait, sample_portrait
from editing.edited_generator import EditedGenerator
from editing.masks import PaintedMask
from editing.options import EditOptions, LossWeights, ReportOptions
from editing.portrait import open_portrait
from editing.portrait_edit import sample_score
from editing.regions import ClassRegion
from editing.session import replay, run_edit
from editing.views import view_source
from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ, save_label_map, segmentation_to_label_map
from mate3d.outputs.mesh import extract_mesh

EARS = 2
OPTIONS = EditOptions(num_steps=1, num_geometry_points=64)
BY_MASK = EditOptions(num_steps=1, num_geometry_points=64, weights=LossWeights(distillation=0.0))
SHORT = ReportOptions(num_orbit_frames=1)


def paint(generator, source=0, yaw=0.0):
    """Return the mask of a view with a square of ears."""
    portrait = sample_portrait(generator, seed=source, truncation_psi=0.7)
    label_map = portrait.view(portrait.camera(yaw)).label_map[0].clone()
    label_map[8:24, 8:24] = EARS
    return label_map


@pytest.mark.slow
def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(editing.portrait_edit, "EditOptions", lambda: EditOptions(num_steps=1))
    monkeypatch.setattr("editing.edited_portrait.ReportOptions", lambda: SHORT)
    (example,) = doctest.DocTestFinder().find(edit_portrait, "edit_portrait", globs={})
    assert len(example.examples) >= 6
    result = doctest.DocTestRunner().run(example)
    assert result.failed == 0
    assert (tmp_path / "outputs" / "edit_python" / "report.html").is_file()


def test_an_edit_is_pictures_numbers_and_a_head(tiny_generator, tmp_path):
    edit = edit_portrait(tiny_generator, mask=paint(tiny_generator), options=BY_MASK)
    assert edit.image.shape == edit.source_image.shape == (1, 3, 32, 32)
    assert edit.receipt.edit_classes == ("ears",)
    front, side = edit.render(), edit.render(yaw_degrees=30)
    torch.testing.assert_close(front.image, edit.image)
    assert (front.image - side.image).abs().max() > 0.01
    box_size = tiny_generator.config.box_size
    mesh, expected = edit.mesh(24), extract_mesh(edit.field, box_size, 24)
    assert len(mesh.faces) == len(expected.faces) > 0
    receipt = edit.write(tmp_path, SHORT)
    assert json.loads((tmp_path / "receipt.json").read_text())["prompt"] == receipt.prompt == ""
    loaded = replay(open_portrait(tiny_generator, tmp_path, truncation_psi=0.7))
    points = torch.rand(1, 100, 3) * 0.5 - 0.25
    assert torch.equal(loaded.field.sdf(points), edit.field.sdf(points))


def test_a_portrait_shows_what_whole_and_edited_views_show(tiny_generator):
    portrait = sample_portrait(tiny_generator, seed=0, truncation_psi=0.7)
    camera = portrait.camera(0.3)
    render, whole = portrait.render(camera), tiny_generator.synthesize(portrait.ws, camera)
    for name in ("image", "segmentation"):
        torch.testing.assert_close(
            getattr(render, name), getattr(whole, name), rtol=1e-4, atol=1e-4
        )
    edited = EditedGenerator(tiny_generator, portrait.ws, ClassRegion((2,)))
    labels = portrait.view(camera).label_map
    assert torch.equal(labels, segmentation_to_label_map(whole.segmentation))
    assert torch.equal(labels, view_source(edited, camera, exact=False).label_map)


def test_views_count_like_the_mask_and_belong_to_the_saved_region(tiny_generator, tmp_path):
    yaw = torch.pi / 6
    save_label_map(tmp_path / "side.png", paint(tiny_generator, yaw=yaw).numpy(), CATMASK_HQ)
    side = PaintedMask(str(tmp_path / "side.png"), yaw_degrees=30.0)
    portrait = sample_portrait(tiny_generator, seed=0, truncation_psi=0.7)
    both = edit_portrait(tiny_generator, mask=paint(tiny_generator), views=[side], options=BY_MASK)
    cameras = [view.camera for view, _ in both.painted_views]
    assert torch.equal(torch.cat(cameras), torch.cat(list(map(portrait.camera, (0.0, yaw)))))
    only = edit_portrait(tiny_generator, views=[side], options=BY_MASK)
    assert torch.equal(only.painted_views[0][0].camera, portrait.camera(yaw))
    with pytest.raises(UserError, match="give each view its own"):
        edit_portrait(tiny_generator, views=[side], yaw_degrees=30, options=BY_MASK)
    both.write(tmp_path / "out", SHORT)
    loaded = replay(open_portrait(tiny_generator, tmp_path / "out", truncation_psi=0.7))
    points = torch.rand(1, 500, 3) * 0.6 - 0.3
    for ours, theirs in zip(loaded.field.shares(points), both.field.shares(points), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "mask", [torch.zeros(16, 16), torch.zeros(2, 32, 32), torch.full((32, 32), -3)]
)
def test_label_ids_that_are_no_mask_are_refused(tiny_generator, mask):
    with pytest.raises(UserError, match="use 32 x 32 ids of 0..5"):
        edit_portrait(tiny_generator, mask=mask, options=BY_MASK)


def test_what_is_asked_of_parts_that_may_not_change_is_said(tiny_generator, fake_guidance, caplog):
    mask, prompts = paint(tiny_generator), {"nose": "pink"}
    arguments = {"options": OPTIONS, "guidance": fake_guidance, "edit_classes": "skin"}
    edit_portrait(tiny_generator, "black ears", mask=mask, prompts=prompts, **arguments)
    for text in ("the mask repaints ears,", "the prompts name ears, nose,"):
        (message,) = (each for each in caplog.messages if text in each)
        assert "which may not change" in message
    caplog.clear()
    edit_portrait(tiny_generator, "white skin", **arguments)
    assert "may not change" not in caplog.text


def test_prompts_of_labels_are_in_the_receipt(tiny_generator, fake_guidance, tmp_path):
    edit = edit_portrait(
        tiny_generator, prompts={"ears": "black"}, options=OPTIONS, guidance=fake_guidance
    )
    edit.write(tmp_path, SHORT)
    assert json.loads((tmp_path / "receipt.json").read_text())["prompts"] == {"ears": "black"}
    assert "<h1>ears: black</h1>" in (tmp_path / "report.html").read_text()


@pytest.fixture
def seeds(monkeypatch):
    found = []

    def note(portrait, request, *args, **options):
        found.append(request.seed)
        return run_edit(portrait, request, *args, **options)

    monkeypatch.setattr(editing.portrait_edit, "run_edit", note)
    return found


def test_seed_of_the_draws_is_the_sources_unless_it_is_given(tiny_generator, fake_guidance, seeds):
    for seed in (None, 3):
        options = EditOptions(num_steps=1, num_geometry_points=64, seed=seed)
        edit_portrait(tiny_generator, "a", source=7, options=options, guidance=fake_guidance)
    assert seeds == [7, 3]


def test_of_several_samples_the_best_is_kept_and_all_are_shown(
    tiny_generator, fake_guidance, seeds, tmp_path
):
    mask = paint(tiny_generator)
    edit = edit_portrait(
        tiny_generator, "x", mask=mask, num_samples=2, options=OPTIONS, guidance=fake_guidance
    )
    assert seeds == [0, 1]
    samples = edit.receipt.samples
    assert [each["seed"] for each in samples] == seeds
    scores = [each["score"] for each in samples]
    assert sample_score(edit.receipt) == max(scores) > min(scores)
    edit.write(tmp_path, SHORT)
    assert json.loads((tmp_path / "receipt.json").read_text())["samples"][1]["seed"] == 1
    assert Image.open(tmp_path / "samples.png").size == (3 * 32, 32)
    assert "samples.png" in (tmp_path / "report.html").read_text()
    best = edit_portrait(
        tiny_generator,
        "x",
        mask=mask,
        options=EditOptions(num_steps=1, num_geometry_points=64, seed=scores.index(max(scores))),
        guidance=fake_guidance,
    )
    assert torch.equal(best.image, edit.image)
    best.write(tmp_path, SHORT)
    assert not (tmp_path / "samples.png").exists()


def test_a_sample_that_fails_does_not_lose_the_others(
    tiny_generator, fake_guidance, monkeypatch, caplog
):
    def fail_once(portrait, request, *args, **options):
        if request.seed == 1:
            raise UserError("no loss was finite")
        return run_edit(portrait, request, *args, **options)

    monkeypatch.setattr(editing.portrait_edit, "run_edit", fail_once)
    arguments = {"options": OPTIONS, "guidance": fake_guidance, "num_samples": 3}
    edit = edit_portrait(tiny_generator, "a", **arguments)
    assert [each["seed"] for each in edit.receipt.samples] == [0, 2]
    assert "sample 2 failed: no loss was finite" in caplog.text
    with pytest.raises(UserError, match="finite"):
        edit_portrait(tiny_generator, "a", source=1, **arguments)


def test_a_prior_is_loaded_only_if_the_edit_uses_it(tiny_generator, fake_guidance):
    def load():
        loads.append(1)
        return fake_guidance

    loads = []
    edit_portrait(tiny_generator, mask=paint(tiny_generator), options=BY_MASK, guidance=load)
    with pytest.raises(UserError, match="unknown class"):
        edit_portrait(tiny_generator, "a", edit_classes=["x"], options=OPTIONS, guidance=load)
    assert not loads
    edit_portrait(tiny_generator, "a", options=OPTIONS, guidance=load)
    assert loads == [1]
