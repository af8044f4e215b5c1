"""Generators whose classes are logits of one head instead of distances (an ablation)."""

import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from mate3d.cameras import make_camera
from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.network.discriminator import DiscriminatorSizes
from mate3d.outputs.mesh import extract_label_meshes
from training.build_state import build_state
from training.losses.terms import LossSettings


@pytest.fixture
def config(tiny_generator):
    rendering = replace(
        tiny_generator.config.rendering,
        semantic_sharpness=1.0,
        density_activation="softplus_shifted",
    )
    return replace(tiny_generator.config, with_local_sdfs=False, rendering=rendering)


@pytest.mark.parametrize("geometry", ["sdf", "density"])
def test_fast_rendering_agrees_and_parts_are_cut_where_their_logit_is_zero(config, geometry):
    torch.manual_seed(0)
    generator, camera = Generator(replace(config, geometry=geometry)).eval(), make_camera(yaw=0.2)
    label_set = generator.label_set
    with torch.no_grad():
        ws = generator.map(torch.ones(1, config.z_dim), camera)
        exact, fast = (generator.synthesize(ws, camera, exact=exact) for exact in (True, False))
    torch.testing.assert_close(fast.segmentation, exact.segmentation, atol=1e-3, rtol=1e-3)
    field = generator.make_field(ws)
    meshes = extract_label_meshes(field, config.box_size, label_set, 16)
    assert meshes
    for name, mesh in meshes.items():
        points = torch.from_numpy(mesh.vertices).float()[None]
        inside = (points.abs() < 0.49 * config.box_size).all(dim=-1)[0]
        logits = field.sample(points).class_sdf
        assert logits.shape[-1] == label_set.num_classes
        values = logits[0, inside, label_set.class_id(name)]
        assert values.abs().mean() < 0.1 * logits.std()


def test_sphere_start_trains_the_head_alone(config, tiny_settings):
    loop = replace(tiny_settings.loop, sphere_init_steps=1)
    settings = replace(tiny_settings, loop=loop, loss=LossSettings(sdf_consistency=0.0))
    sizes = DiscriminatorSizes(channel_base=64, channel_max=8, mapping_layers=1)
    state = build_state(config, sizes, settings, make_camera(yaw=0.0), torch.device("cpu"))
    decoder = state.networks.generator.decoder
    before = [copy.deepcopy(part.state_dict()) for part in (decoder.sdf_head, decoder.class_heads)]
    state.stages[0].runner.step()
    head, classes = (
        all(value.equal(old[name]) for name, value in part.state_dict().items())
        for part, old in zip((decoder.sdf_head, decoder.class_heads), before, strict=True)
    )
    assert classes and not head


@pytest.mark.parametrize(
    ("sharpness", "weight", "num_steps", "named"),
    [
        (1.0, 0.1, 0, "loss.sdf_consistency"),
        (20.0, 0.0, 0, "semantic_sharpness=20"),
        (1.0, 0.0, 1, None),
    ],
)
def test_what_needs_distances_of_classes_is_refused(
    config, tiny_settings, sharpness, weight, num_steps, named
):
    config = replace(config, rendering=replace(config.rendering, semantic_sharpness=sharpness))
    settings = replace(tiny_settings, loss=LossSettings(sdf_consistency=weight))
    loop = replace(tiny_settings.loop, sphere_init_steps=num_steps)
    settings = replace(settings, loop=loop)
    sizes = DiscriminatorSizes(channel_base=64, channel_max=8, mapping_layers=1)
    with pytest.raises(UserError, match=named) if named else nullcontext():
        build_state(config, sizes, settings, make_camera(yaw=0.0), torch.device("cpu"))
