"""Settings of published networks are followed, or refused by name; none is passed over."""

import dataclasses

import numpy as np
import pytest
import torch

from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.published.configs import infer_generator
from mate3d.published.conversion import convert_generator
from mate3d.published.networks import read_networks
from tests.eg3d import make_generator
from tests.golden import assert_golden
from tests.official_format import (
    generator_config,
    make_network,
    published_state,
    read_back,
    write_snapshot,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ray_start": "auto"}, "ray_start is 'auto' .expected a number"),
        ({"ray_end": 2.0}, "ray_start=2.25 and ray_end=2 "),
        ({"clamp_mode": "relu"}, "clamp_mode is 'relu' .expected softplus"),
        ({"disparity_space_sampling": True}, "disparity_space_sampling is True"),
        ({"density_noise": 0.5}, "density_noise is 0.5"),
        ({"depth_resolution": 10**9}, "depth_resolution is 1000000000 .expected 4 to 4096"),
        ({"depth_resolution_importance": None}, "depth_resolution_importance is None"),
        ({"box_warp": -1}, "box_warp is -1 .expected a number above 0"),
        ({"superresolution_noise_mode": "odd"}, "sr_noise_mode=odd; use one of"),
        ({"avg_camera_pivot": [1, 2]}, "target=.1,2.; use a list of 3"),
        ({"avg_camera_radius": float("nan")}, "radius=nan; use a number above 0"),
        ({"ray_end": 1e200}, "ray_end is 1e"),
        ({"box_warp": 10**400}, "box_warp is 1000"),
        ({"decoder_activation": "lrelu"}, "decoder_activation is 'lrelu' .expected sigmoid"),
    ],
)
def test_options_that_are_not_rendered_alike_are_errors(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        generator_config(read_back(tmp_path / "x.pkl", make_generator(), **changes))


@pytest.mark.parametrize(
    ("changes", "scale"),
    [({"c_scale": 0.5}, 0.5), ({"c_gen_conditioning_zero": True}, 0.0), ({"c_scale": 1}, 1.0)],
)
def test_edited_options_are_followed_and_win_over_constructor_arguments(tmp_path, changes, scale):
    changes |= {"ray_end": 3.1, "white_back": True, "avg_camera_pivot": np.array([0, 0, 0.2])}
    network = read_back(tmp_path / "x.pkl", make_generator(), **changes)
    assert network.init_kwargs["rendering_kwargs"]["ray_end"] == 3.3
    config = generator_config(network)
    assert config.camera_scale == scale and config.camera_rig.target == (0, 0, 0.2)
    assert config.rendering.far == 3.1 and config.rendering.white_background
    del network.attributes["rendering_kwargs"]
    assert generator_config(network).rendering.far == 3.3


def test_unknown_options_and_assumed_cameras_are_noted(tmp_path):
    network = read_back(tmp_path / "x.pkl", make_generator(), new_switch=1, gpc_reg_prob=0.5)
    del network.attributes["rendering_kwargs"]["avg_camera_pivot"]
    notes = infer_generator(network).notes
    assert notes == [
        "no avg_camera_pivot in the file; assuming [0, 0, 0]",
        "rendering option 'new_switch' is unknown and was ignored",
    ]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("renderer.sigmoid", "x", "renderer.sigmoid is 'x'"),
        ("neural_rendering_resolution", None, "neural_rendering_resolution is None"),
        ("superresolution.input_resolution", 24, "from 24 px has blocks of"),
        ("renderer.plane_axes", torch.eye(3), "plane layout"),
        ("renderer.plane_axes", torch.full((3, 3, 3), 0.3), "plane layout"),
    ],
)
def test_layers_built_otherwise_are_errors(networks, name, value, message):
    network = networks["G_ema"]
    changed = dataclasses.replace(network, attributes=network.attributes | {name: value})
    with pytest.raises(UserError, match=message):
        generator_config(changed)


def test_networks_of_other_parts_are_errors(networks):
    network = networks["G_ema"]
    fewer_heads = {k: v for k, v in network.state.items() if "bbbb_18" not in k}
    for changes, message in (
        ({"state": fewer_heads}, "18 local heads .expected 19 .* 6 for"),
        ({"attributes": {}, "init_kwargs": {}}, "has no rendering_kwargs"),
    ):
        with pytest.raises(UserError, match=message):
            generator_config(dataclasses.replace(network, **changes))


@pytest.mark.parametrize(("value", "expected"), [(None, None), (0.5, 0.5), (256, 256.0)])
@pytest.mark.parametrize("part", ["backbone.synthesis.", "superresolution"])
def test_clamps_of_activations_are_followed(networks, part, value, expected):
    network = dataclasses.replace(networks["G_ema"])
    network.attributes = {
        name: value if name.startswith(part) and name.endswith(".conv_clamp") else old
        for name, old in network.attributes.items()
    }
    config = generator_config(network)
    clamps = (None, expected) if part == "superresolution" else (expected, 256.0)
    assert (config.backbone_clamp, config.sr_clamp) == clamps
    assert Generator(config).superresolution.blocks[0].conv0.clamp == config.sr_clamp


def test_weights_stored_for_other_gains_give_the_same_pictures(networks, expected):
    network = networks["G_ema"]
    state, attributes = dict(network.state), dict(network.attributes)
    heads = {name.rpartition(".")[0] for name in attributes if name.endswith(".bias_gain")}
    for index, head in enumerate(sorted(heads)):
        factor = (0.5, 1.0, 4.0)[index % 3]
        for kind in ("weight", "bias"):
            attributes[f"{head}.{kind}_gain"] *= factor
            state[f"{head}.{kind}"] = state[f"{head}.{kind}"] / factor
    changed = dataclasses.replace(network, state=state, attributes=attributes)
    conversion = convert_generator(changed)
    assert any("multiplied by 0.5" in note for note in conversion.notes)
    ws = conversion.generator.map(expected["in.z"], expected["in.c_cond"], truncation_psi=0.7)
    assert_golden(ws, expected["ws"])
    assert_golden(conversion.generator.synthesize(ws, expected["in.c"]).image, expected["image"])


@pytest.mark.parametrize("kind", ["filters", "gains"])
def test_filters_are_the_usual_ones_and_decoder_gains_follow_the_option(tmp_path, kind):
    generator = make_generator()
    state = published_state(generator)
    if kind == "filters":
        changes, state = {}, {k: v for k, v in state.items() if "resample_filter" not in k}
    else:
        changes = {"decoder_lr_mul": 0.25}
        state = {k: v / 0.25 if k.startswith("decoder.") else v for k, v in state.items()}
    network = make_network(generator, state, **changes)
    found = read_networks(write_snapshot(tmp_path / "x.pkl", G=network))["G"]
    conversion = convert_generator(found)
    converted = conversion.generator.state_dict()
    assert all(torch.equal(converted[k], v) for k, v in generator.state_dict().items())
    assert conversion.initialised == []
    assert ("filters are not in the file" in conversion.notes[-1]) == (kind == "filters")


def test_unsmoothed_raw_images_are_an_error_where_they_shrink(tmp_path):
    network = read_back(tmp_path / "x.pkl", make_generator())
    network.attributes["superresolution.sr_antialias"] = False
    assert generator_config(network).neural_rendering_resolution == 6
    network.attributes["neural_rendering_resolution"] = 16
    with pytest.raises(UserError, match="sr_antialias is off"):
        generator_config(network)
