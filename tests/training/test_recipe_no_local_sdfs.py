"""Generators whose classes are logits of one head instead of distances (an ablation)."""

from dataclasses import replace

import pytest
import torch

from mate3d.cameras import make_camera
from mate3d.checkpoint import load_generator, save_generator
from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.outputs.mesh import extract_label_meshes
from training.build_state import StageSettings, build_state
from training.losses.terms import LossSettings

NO_CLASS_TERMS = LossSettings(sdf_consistency=0.0)


@pytest.fixture
def config(tiny_generator):
    rendering = replace(tiny_generator.config.rendering, semantic_sharpness=1.0)
    return replace(tiny_generator.config, with_local_sdfs=False, rendering=rendering)


@pytest.fixture(params=["sdf", "density"])
def generator(config, request) -> Generator:
    rendering = replace(config.rendering, density_activation="softplus_shifted")
    torch.manual_seed(0)
    return Generator(replace(config, geometry=request.param, rendering=rendering)).eval()


def head_of(generator: Generator):
    camera = make_camera(yaw=0.2)
    return generator.make_field(generator.map(torch.ones(1, generator.config.z_dim), camera))


def test_one_head_gives_all_classes(generator):
    (head,) = generator.decoder.class_heads
    assert head[2].weight.shape[0] == generator.label_set.num_classes
    field, points = head_of(generator), torch.rand(1, 9, 3) - 0.5
    features = field.shape_features(points)
    samples = field.sample(points)
    torch.testing.assert_close(samples.class_sdf, head(features))
    torch.testing.assert_close(samples.sdf, field.sdf(points))


def test_checkpoint_keeps_the_option(generator, tmp_path):
    save_generator(tmp_path / "model", generator)
    assert load_generator(tmp_path / "model").config == generator.config


def test_fast_rendering_agrees(generator):
    camera = make_camera(yaw=0.2)
    ws = generator.map(torch.ones(1, generator.config.z_dim), camera)
    with torch.no_grad():
        exact = generator.synthesize(ws, camera)
        fast = generator.synthesize(ws, camera, exact=False)
    torch.testing.assert_close(fast.segmentation, exact.segmentation, atol=1e-3, rtol=1e-3)


def test_parts_are_cut_where_their_logit_is_zero(generator):
    field, label_set = head_of(generator), generator.label_set
    meshes = extract_label_meshes(field, generator.config.box_size, label_set, 16)
    assert meshes
    for name, mesh in meshes.items():
        points = torch.from_numpy(mesh.vertices).float()[None]
        inside = (points.abs() < 0.49 * generator.config.box_size).all(dim=-1)[0]
        values = field.sample(points).class_sdf[0, inside, label_set.class_id(name)]
        assert values.abs().mean() < 0.1 * field.sample(points).class_sdf.std()


def build(config, settings, loss: LossSettings, **stages):
    sizes = {"channel_base": 64, "channel_max": 8, "mapping_layers": 1}
    return build_state(
        config,
        sizes,
        replace(settings, loss=loss),
        StageSettings(**stages),
        make_camera(yaw=0.0),
        torch.device("cpu"),
    )


@pytest.mark.parametrize(
    ("sharpness", "loss", "stages", "named"),
    [
        (1.0, LossSettings(), {}, "loss.sdf_consistency"),
        (1.0, NO_CLASS_TERMS, {"sphere_init_steps": 1}, "train.sphere_init_steps"),
        (20.0, NO_CLASS_TERMS, {}, "semantic_sharpness=20"),
    ],
)
def test_what_needs_distances_of_classes_is_refused(
    config, tiny_settings, sharpness, loss, stages, named
):
    sharp = replace(config.rendering, semantic_sharpness=sharpness)
    with pytest.raises(UserError, match=named):
        build(replace(config, rendering=sharp), tiny_settings, loss, **stages)
    build(config, tiny_settings, NO_CLASS_TERMS)
