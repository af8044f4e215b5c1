"""A saved edit gives the same pictures when loaded again; edits stack, weaken and travel."""

import json
from dataclasses import replace

import pytest
import torch

from editing import edit_portrait
from editing.losses import psnr_outside
from editing.measures import edited_pixels
from editing.options import EditOptions, LossWeights, ReportOptions
from editing.portrait import open_portrait
from editing.recipe import load_edit
from editing.session import change_edits, replay
from editing.stacking import PlaneChange
from mate3d.errors import UserError
from mate3d.rendering.field import field_gradient

OPTIONS = EditOptions(num_steps=2, num_geometry_points=64, weights=LossWeights(distillation=0.0))
EVERYTHING = replace(OPTIONS, learnable=("ws", "backbone.blocks.*.to_image", "texture", "shape"))
REPORT = ReportOptions(num_orbit_frames=1)
EARS = 2


def paint(portrait, row=8, column=8, size=8):
    label_map = portrait.view(portrait.camera()).label_map[0].clone()
    label_map[row : row + size, column : column + size] = EARS
    return label_map


def edit_at(generator, source, options=OPTIONS, **place):
    mask = paint(open_portrait(generator, source, truncation_psi=0.7), **place)
    return edit_portrait(
        generator, mask=mask, edit_classes="ears", source=source, options=options, report=REPORT
    )


def opened(generator, source):
    return open_portrait(generator, source, truncation_psi=0.7)


@pytest.fixture
def folder(tiny_generator, tmp_path):
    edit_at(tiny_generator, 0).write(tmp_path / "edit", REPORT)
    return tmp_path / "edit"


@pytest.mark.parametrize("options", [OPTIONS, EVERYTHING, replace(OPTIONS, exact=True)])
def test_a_replayed_edit_is_the_same_bit_for_bit(tiny_generator, tmp_path, options):
    edit = edit_at(tiny_generator, 0, options)
    edit.write(tmp_path, REPORT)
    again = replay(opened(tiny_generator, tmp_path), REPORT)
    assert not torch.equal(edit.image, edit.source_image)
    for (_, one), (_, other) in zip(edit.painted_views, again.painted_views, strict=True):
        for name in ("image", "segmentation", "normals"):
            assert torch.equal(getattr(one.edited, name), getattr(other.edited, name))
    for one, other in zip(edit.other_views, again.other_views, strict=True):
        assert torch.equal(one.edited.image, other.edited.image)
    assert again.receipt.summary() == edit.receipt.summary()


def test_another_generator_and_unreadable_files_are_refused(folder, tiny_generator):
    with pytest.raises(UserError, match="no such seed, latent file or edit"):
        opened(tiny_generator, folder / "none")
    with pytest.raises(UserError, match="recipe.yaml not found"):
        load_edit(folder.parent, tiny_generator)
    (folder / "edit.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(UserError, match="cannot be read"):
        load_edit(folder, tiny_generator)
    tiny_generator.decoder.beta.add_(0.01)
    with pytest.raises(UserError, match="different generator"):
        load_edit(folder, tiny_generator)


def test_a_second_edit_keeps_the_first_and_is_measured_against_both(
    folder, tiny_generator, tmp_path
):
    first = replay(opened(tiny_generator, folder))
    second = edit_at(tiny_generator, str(folder), row=8, column=20)
    assert (second.source_image - first.image).abs().max() < 0.02
    second.write(tmp_path / "two", REPORT)
    receipt = json.loads((tmp_path / "two" / "receipt.json").read_text())
    assert receipt["chain"]["num_edits"] == 2
    assert receipt["chain"]["psnr_outside_regions_db"] >= 40
    again = replay(opened(tiny_generator, tmp_path / "two"))
    assert torch.equal(again.image, second.image)
    # The whole stack as one field is the head that the second edit shows.
    points = torch.rand(1, 2000, 3) * 0.5 - 0.25
    whole = opened(tiny_generator, tmp_path / "two").field
    torch.testing.assert_close(whole.sdf(points), second.field.sdf(points))
    for one, other in zip(
        vars(whole.sample(points)).values(), vars(second.field.sample(points)).values(), strict=True
    ):
        torch.testing.assert_close(one, other)
    where = points.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(whole.sdf(where).sum(), where)
    torch.testing.assert_close(field_gradient(whole, points), expected, rtol=1e-3, atol=1e-4)


def test_edits_are_scaled_left_out_blended_and_applied_to_another_head(
    folder, tiny_generator, tmp_path
):
    source = opened(tiny_generator, folder)
    full = replay(source)
    none = replay(change_edits(source, strength=0.0))
    assert torch.equal(none.image, none.source_image)
    origin = opened(tiny_generator, 0)
    assert torch.equal(none.image, origin.render(origin.camera()).image)
    half = replay(change_edits(source, strength=0.5)).image
    distance = [(each - full.source_image).abs().mean() for each in (half, full.image)]
    assert 0 < distance[0] < distance[1]
    edit_at(tiny_generator, str(folder), column=20).write(tmp_path / "two", REPORT)
    two = opened(tiny_generator, tmp_path / "two")
    assert torch.equal(replay(change_edits(two, without=[2])).image, full.image)
    edit_at(tiny_generator, 0, column=20).write(tmp_path / "other", REPORT)
    other = opened(tiny_generator, tmp_path / "other")
    for share, expected in ((0.0, full.image), (1.0, replay(other).image)):
        blended = replay(change_edits(source, blend=other, blend_share=share)).image
        torch.testing.assert_close(blended, expected, rtol=0, atol=0.02)
    applied = replay(change_edits(source, apply_to=opened(tiny_generator, 5)))
    applied.write(tmp_path / "applied", REPORT)
    plain = opened(tiny_generator, 5)
    expected = plain.render(plain.camera()).image
    torch.testing.assert_close(applied.source_image, expected, rtol=0, atol=0.02)
    assert not torch.equal(applied.image, applied.source_image)
    with pytest.raises(UserError, match="has the edits 1..1"):
        change_edits(source, without=[2])
    with pytest.raises(UserError, match="different heads"):
        change_edits(source, blend=opened(tiny_generator, 5))
    with pytest.raises(UserError, match="no edits to change"):
        change_edits(opened(tiny_generator, 5), strength=1.0)


def test_twenty_edits_leave_everything_outside_their_regions(tiny_generator, tmp_path):
    edit = edit_at(tiny_generator, 0, size=4)
    origin, (first,) = opened(tiny_generator, 0), edit.portrait.steps
    camera, steps, painted = origin.camera(), [], torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    for number in range(20):
        mask = first.views[0].source_label_map.clone()
        mask[:, 4 + number % 4 : 9 + number % 4, 4 + number // 4 : 9 + number // 4] = EARS
        view = replace(first.views[0], label_map=mask)
        painted |= view.repainted((EARS,))
        # The tiny head is a fog, in which hidden ears would show: only the painted frustums.
        region = replace(first.recipe.region, dilation=-10.0)
        strong = replace(first.recipe, strength=10.0, region=region)
        steps.append(replace(first, recipe=strong, views=(view,)))
    before = origin.render(camera)
    after = replace(origin, steps=tuple(steps)).render(camera)
    inside = edited_pixels([torch.zeros(1, 32, 32)], (EARS,), 0.2, painted)
    assert (~inside).float().mean() > 0.2
    assert psnr_outside(after.image, before.image, inside) >= 50
    assert psnr_outside(after.image, before.image, ~inside) < 40


def test_saved_changes_are_small_and_close():
    torch.manual_seed(0)
    source, edited = torch.randn(2, 1, 3, 8, 16, 16).unbind()
    edited[..., 4:] = source[..., 4:]
    change = PlaneChange.between(source, edited)
    assert len(change.values) == 3 * 16 * 4
    error = (source + change.planes() - edited).abs().amax()
    assert error <= change.scale.max() / 2 + 1e-5
    assert PlaneChange.between(source, source) is None
