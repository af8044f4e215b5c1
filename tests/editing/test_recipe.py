"""A saved edit gives the same pictures when loaded again."""

import pytest
import torch

from editing.edited_generator import EditedGenerator
from editing.recipe import Recipe, load_edit, save_edit
from editing.regions import PaintedView, RegionOptions, make_regions
from mate3d.cameras import make_camera
from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ
from tests.editing.conftest import PAPER, SCALE

RECIPE = Recipe("a cat", ("ears", "eyes"), RegionOptions(dilation=0.01), SCALE, "abc")


@pytest.fixture
def saved(tiny_generator, tiny_ws, camera, tmp_path):
    before = torch.zeros(1, 32, 32, dtype=torch.int64)
    after = before.clone()
    after[..., 5:20, 5:20] = 2
    views = [PaintedView(camera, before, after), PaintedView(make_camera(0.5), before, before)]
    regions = make_regions(RECIPE.region, (2, 3), views, SCALE, CATMASK_HQ)
    edited = EditedGenerator(tiny_generator, tiny_ws, *regions, learnable=PAPER.learnable)
    with torch.no_grad():
        for parameter in (p for p in edited.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path / "edit.safetensors"
    save_edit(path, edited, RECIPE, views=views)
    return path, edited


def test_a_loaded_edit_renders_the_same_picture(saved, tiny_generator, camera):
    path, edited = saved
    loaded, recipe = load_edit(path, tiny_generator)
    assert recipe == RECIPE
    with torch.no_grad():
        expected = edited.render(edited.fused_field(), camera)
        actual = loaded.render(loaded.fused_field(), camera)
    assert torch.equal(actual.image, expected.image)
    assert torch.equal(actual.segmentation, expected.segmentation)


def test_another_generator_and_unreadable_files_are_refused(saved, tiny_generator):
    path, _ = saved
    tiny_generator.decoder.beta.add_(0.01)
    with pytest.raises(UserError, match="different generator"):
        load_edit(path, tiny_generator)
    with pytest.raises(UserError, match="edit not found"):
        load_edit(path.with_name("none.safetensors"), tiny_generator)
    path.write_bytes(b"not a file of tensors")
    with pytest.raises(UserError, match="cannot be read"):
        load_edit(path, tiny_generator)


@pytest.mark.gpu
def test_an_edit_is_loaded_where_its_generator_is(saved, tiny_generator, camera):
    loaded, _ = load_edit(saved[0], tiny_generator.cuda())
    with torch.no_grad():
        view = loaded.render(loaded.fused_field(), camera.cuda())
    assert view.image.is_cuda
