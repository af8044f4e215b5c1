"""No edit loses a painting or an older result, whatever the user forgets."""

import numpy as np
import pytest
from PIL import Image

from mate3d.label_files import load_label_map
from mate3d.labels import CATMASK_HQ, save_label_map
from scripts import edit

FAST = ["debug=tiny", "device=cpu", "edit.num_steps=1", "report.num_orbit_frames=1"]


@pytest.fixture
def words(generator_folder, prior_folder):
    return [*FAST, f"generator={generator_folder}", f"guidance.prior={prior_folder}"]


def paint(path):
    """Paint ears on a mask file, and return its content."""
    label_map = load_label_map(path, CATMASK_HQ)
    label_map[8:24, 8:24] = CATMASK_HQ.class_id("ears")
    save_label_map(path, label_map, CATMASK_HQ)
    return path.read_bytes()


def test_one_folder_can_hold_the_painting_and_the_edit(words, tmp_path, fail):
    output = f"output={tmp_path}"
    edit.main([*words, output])
    edit.main([*words, output])
    mask = tmp_path / "paint_me.png"
    painting = paint(mask)
    assert "is painted" in fail(edit.main, *words, output)
    assert "is painted" in fail(edit.main, *words, output, "seed=5")
    edit.main([*words, output, f"mask={mask}", "prompt=a cat"])
    edit.main([*words, output, "prompt=a black cat"])
    assert mask.read_bytes() == painting
    assert "holds an edit" in fail(edit.main, *words, output)
    mask.unlink()
    assert "holds an edit" in fail(edit.main, *words, output)


def test_a_mask_that_a_paint_program_saved_unchanged_may_be_replaced(words, tmp_path, fail):
    edit.main([*words, f"output={tmp_path}"])
    mask = tmp_path / "paint_me.png"
    Image.fromarray(load_label_map(mask, CATMASK_HQ)).save(mask, compress_level=0)
    edit.main([*words, f"output={tmp_path}"])
    assert Image.open(mask).mode == "P"
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(mask)
    assert "is painted" in fail(edit.main, *words, f"output={tmp_path}")
    mask.write_bytes(b"not a picture")
    assert "is painted" in fail(edit.main, *words, f"output={tmp_path}")


def test_a_file_that_is_read_is_never_written(words, tmp_path, fail):
    edit.main([*words, f"output={tmp_path}"])
    for name in ("source_mask.png", "target_mask.png", "edited_mask_2.png"):
        mask = tmp_path / name
        mask.write_bytes((tmp_path / "paint_me.png").read_bytes())
        painting = paint(mask)
        before = (tmp_path / "config.yaml").read_bytes()
        for given in (f"mask={mask}", f"views=[{{mask: {tmp_path}/./{name}}}]"):
            message = fail(edit.main, *words, f"output={tmp_path}", given, "prompt=a cat")
            assert f"{name}, which it reads; use another output" in message
        assert mask.read_bytes() == painting
        assert (tmp_path / "config.yaml").read_bytes() == before
    link = tmp_path.with_suffix(".png")
    link.symlink_to(tmp_path / "target_mask.png")
    message = fail(edit.main, *words, f"output={tmp_path}", f"mask={link}", "prompt=a cat")
    assert "target_mask.png, which it reads" in message


def test_a_result_that_was_painted_on_is_kept_beside_the_next_one(words, tmp_path, capsys):
    request = [*words, f"output={tmp_path}", "prompt=a cat"]
    edit.main(request)
    edit.main(request)
    assert not list(tmp_path.glob("*_painted*"))
    painting = paint(tmp_path / "edited_mask.png")
    edit.main(request)
    assert "kept as edited_mask_painted.png" in capsys.readouterr().out
    assert (tmp_path / "edited_mask_painted.png").read_bytes() == painting
    assert (tmp_path / "edited_mask.png").read_bytes() != painting


def test_a_failed_edit_leaves_the_older_result_as_it_is(words, tmp_path, fail):
    request = [*words, f"output={tmp_path}", "prompt=a cat"]
    edit.main(request)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != "log.txt"}
    for wrong in ("mask=no_such.png", "edit_classes=horns", "guidance.prior=none"):
        fail(edit.main, *request, wrong)
        after = {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != "log.txt"}
        assert before == after, wrong
    edit.main([*request, "negative_prompt=a dog"])
    assert "a dog" in (tmp_path / "config.yaml").read_text()


def test_a_prompt_alone_keeps_the_mask_and_may_change_every_part(words, tmp_path):
    edit.main([*words, f"output={tmp_path}", "prompt=an orange cat", "yaw_degrees=20"])
    source, target = (
        load_label_map(tmp_path / f"{name}.png", CATMASK_HQ)
        for name in ("source_mask", "target_mask")
    )
    assert np.array_equal(source, target)


def test_a_prompt_without_a_prior_or_a_mask_is_refused_or_named(words, tmp_path, fail, capsys):
    start = [*words, "edit=mask_only", "prompt=a cat"]
    assert "needs a mask" in fail(edit.main, *start, f"output={tmp_path / 'edit'}")
    edit.main([*words, f"output={tmp_path}"])
    paint(tmp_path / "paint_me.png")
    edit.main([*start, f"output={tmp_path / 'edit'}", f"mask={tmp_path / 'paint_me.png'}"])
    assert "the prompt has no effect" in capsys.readouterr().out
