"""A saved edit gives the same pictures when loaded again."""

import pytest
import torch

from editing.edited_generator import EditedGenerator
from editing.recipe import Recipe, load_edit, save_edit
from editing.regions import RegionOptions, make_region
from mate3d.errors import UserError

RECIPE = Recipe("a cat", ("ears", "eyes"), RegionOptions(dilation=0.01), "abc")


@pytest.fixture
def saved(tiny_generator, tiny_ws, camera, tmp_path):
    repainted = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    repainted[..., 5:20, 5:20] = True
    region = make_region(RECIPE.region, (2, 3), camera, repainted)
    edited = EditedGenerator(
        tiny_generator, tiny_ws, region, learnable=("ws", "backbone.blocks.*.to_image", "planes")
    )
    with torch.no_grad():
        for parameter in (edited.ws, edited.plane_offset, *edited.weight_parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path / "edit.safetensors"
    save_edit(path, edited, RECIPE, camera=camera, repainted=repainted)
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
