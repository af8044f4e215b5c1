"""Settings of published networks are followed, or refused by name; none is passed over."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.published.configs import generator_config, infer_generator
from mate3d.published.conversion import convert_generator
from mate3d.published.facts import channel_rule
from mate3d.published.networks import read_networks
from tests.eg3d import make_generator
from tests.golden import assert_golden
from tests.official_format import make_network, published_state, read_back, write_snapshot


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ray_start": "auto"}, "ray_start is 'auto'; a number is known"),
        ({"ray_end": 2.0}, "rays start at 2.25 and end at 2"),
        ({"clamp_mode": "relu"}, "clamp_mode 'relu' is not softplus"),
        ({"disparity_space_sampling": True}, "disparity_space_sampling is True"),
        ({"density_noise": 0.5}, "density_noise is 0.5"),
        ({"depth_resolution": 10**9}, "depth_resolution is 1000000000; 4 to 4096"),
        ({"depth_resolution_importance": None}, "depth_resolution_importance is None"),
        ({"box_warp": -1}, "box_warp is -1; a number above 0"),
        ({"c_scale": "x"}, "c_scale is 'x'"),
        ({"superresolution_noise_mode": "odd"}, "superresolution_noise_mode is 'odd'"),
        ({"avg_camera_pivot": [1, 2]}, "avg_camera_pivot list are not"),
        ({"avg_camera_radius": float("nan")}, "avg_camera_radius nan"),
    ],
)
def test_options_that_are_not_rendered_alike_are_errors(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        generator_config(read_back(tmp_path / "x.pkl", make_generator(), **changes))


def test_unknown_options_and_assumed_cameras_are_noted(tmp_path):
    network = read_back(tmp_path / "x.pkl", make_generator(), new_switch=1, gpc_reg_prob=0.5)
    del network.attributes["rendering_kwargs"]["avg_camera_pivot"]
    notes = infer_generator(network).notes
    assert notes == [
        "no avg_camera_pivot in the file; [0, 0, 0] is assumed",
        "rendering option 'new_switch' is not known and was ignored",
    ]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("backbone.synthesis.b8.conv1.conv_clamp", 256, "have different clamps: None, 256"),
        ("superresolution.block0.torgb.conv_clamp", "x", "have different clamps: 256, 'x'"),
        ("backbone.synthesis.b8.conv0.activation", "relu", "activation is 'relu'; lrelu is known"),
        ("backbone.mapping.fc1.activation", "linear", "'linear'; lrelu is known"),
        ("backbone.synthesis.b8.conv0.affine.activation", "lrelu", "'lrelu'; linear is known"),
        ("backbone.synthesis.b8.conv0.act_gain", 1.0, "act_gain is 1.0"),
        ("decoder.net_tex.1.beta", 2, "beta is 2; 1 is known"),
        ("decoder.net_main_shp_bbbb_3.1.threshold", 1, "threshold is 1; 20 is known"),
        ("renderer.sigmoid", "x", "renderer.sigmoid is 'x'"),
        ("renderer.sigmoid", 10**300, "renderer.sigmoid is 1000"),
        ("backbone.synthesis.b8.architecture", "resnet", "skip is known"),
        ("neural_rendering_resolution", None, "neural_rendering_resolution is None"),
        ("superresolution.input_resolution", 24, "from 24 px has blocks of"),
        ("rendering_kwargs", 3, None),
    ],
)
def test_layers_built_otherwise_are_errors(networks, name, value, message):
    network = networks["G_ema"]
    changed = dataclasses.replace(network, attributes=network.attributes | {name: value})
    if message is None:
        changed.init_kwargs = {}
        message = "has no rendering_kwargs"
    with pytest.raises(UserError, match=message):
        generator_config(changed)


def with_attributes(network, pattern: str, **values):
    """Change attributes of those parts of a network whose name fits."""
    changed = dict(network.attributes)
    for name in network.attributes:
        head, _, last = name.rpartition(".")
        if last in values and re.fullmatch(pattern, head):
            changed[name] = values[last]
    return dataclasses.replace(network, attributes=changed)


@pytest.mark.parametrize(("value", "expected"), [(None, None), (0.5, 0.5), (256, 256.0)])
def test_clamps_of_activations_are_followed(networks, value, expected):
    network = with_attributes(networks["G_ema"], r"backbone\.synthesis\..*", conv_clamp=value)
    config = generator_config(network)
    assert (config.backbone_clamp, config.sr_clamp) == (expected, 256.0)
    network = with_attributes(networks["G_ema"], "superresolution.*", conv_clamp=value)
    config = generator_config(network)
    assert (config.backbone_clamp, config.sr_clamp) == (None, expected)
    assert Generator(config).superresolution.blocks[0].conv0.clamp == expected


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
    values = expected.tensors
    ws = conversion.generator.map(values["in.z"], values["in.c_cond"], truncation_psi=0.7)
    assert_golden(ws, values["ws"])
    assert_golden(conversion.generator.synthesize(ws, values["in.c"]).image, values["image"])


def test_decoder_gains_follow_the_option_where_layers_tell_none(tmp_path):
    generator = make_generator()
    state = published_state(generator)
    for name in state:
        if name.startswith("decoder."):
            state[name] = state[name] / 0.25
    network = make_network(generator, state, decoder_lr_mul=0.25)
    found = read_networks(write_snapshot(tmp_path / "x.pkl", G=network))["G"]
    converted = convert_generator(found).generator.state_dict()
    assert all(torch.equal(converted[k], v) for k, v in generator.state_dict().items())


def test_another_activation_of_the_decoder_is_an_error(networks):
    classes = networks["G_ema"].classes
    assert classes["decoder.net_tex.1"] == "Softplus" and classes[""] == "TriPlaneGenerator"
    changed = dataclasses.replace(
        networks["G_ema"], classes=classes | {"decoder.net_tex.1": "ReLU"}
    )
    with pytest.raises(UserError, match="the activation is ReLU; Softplus is known"):
        generator_config(changed)


@pytest.mark.parametrize("channels", [{4: 24, 8: 24, 16: 24, 32: 15}, {4: 31, 8: 15, 16: 7, 32: 3}])
def test_channels_are_explained_by_the_smallest_base_that_fits(channels):
    base, maximum = channel_rule(channels, {}, "G")
    assert all(min(base // r, maximum) == number for r, number in channels.items())


def test_a_mapping_of_countless_layers_is_refused(networks):
    weight = networks["G_ema"].state["backbone.mapping.fc1.weight"]
    state = networks["G_ema"].state | {
        f"backbone.mapping.fc{index}.weight": weight for index in range(2, 90)
    }
    with pytest.raises(UserError, match="the mapping has 90 layers; 64 at most"):
        generator_config(dataclasses.replace(networks["G_ema"], state=state))


def test_huge_tensors_are_not_made_up(tmp_path):
    network = read_back(tmp_path / "x.pkl", make_generator())
    for side in (2**power for power in range(4, 14)):
        network.state[f"backbone.synthesis.b{side}.conv1.weight"] = torch.zeros(8, 8, 3, 3)
    with pytest.raises(UserError, match="most of the generator is not in the file"):
        convert_generator(network, strict=False)


def test_filters_that_a_file_lacks_are_the_usual_ones(tmp_path):
    generator = make_generator()
    state = {k: v for k, v in published_state(generator).items() if "resample_filter" not in k}
    network = make_network(generator, state)
    found = read_networks(write_snapshot(tmp_path / "x.pkl", G=network))["G"]
    conversion = convert_generator(found)
    converted = conversion.generator.state_dict()
    assert all(torch.equal(converted[k], v) for k, v in generator.state_dict().items())
    assert conversion.initialised == [] and "filters are not in the file" in conversion.notes[-1]


@pytest.mark.parametrize(
    "pivot",
    [(0, 0, 0.2), np.array([0, 0, 0.2]), torch.tensor([0, 0, 0.2]), [0, 0, np.float32(0.2)]],
)
def test_camera_pivots_of_any_kind_are_read(tmp_path, pivot):
    network = read_back(tmp_path / "x.pkl", make_generator(), avg_camera_pivot=pivot)
    assert generator_config(network).camera_rig.target == pytest.approx((0, 0, 0.2))


@pytest.mark.parametrize("name", ["ray_end", "box_warp", "c_scale", "avg_camera_radius"])
@pytest.mark.parametrize("value", [10**400, 1e200])
def test_numbers_beyond_all_scenes_are_refused(tmp_path, name, value):
    network = read_back(tmp_path / "x.pkl", make_generator())
    network.attributes["rendering_kwargs"][name] = value
    with pytest.raises(UserError, match=name):
        generator_config(network)


def test_decoders_of_another_output_are_errors(tmp_path):
    network = read_back(tmp_path / "x.pkl", make_generator(), decoder_activation="lrelu")
    with pytest.raises(UserError, match="decoder_activation 'lrelu' is not sigmoid"):
        generator_config(network)


def test_unsmoothed_raw_images_are_an_error_where_they_shrink(tmp_path):
    network = read_back(tmp_path / "x.pkl", make_generator())
    network.attributes["superresolution.sr_antialias"] = False
    assert generator_config(network).neural_rendering_resolution == 6
    network.attributes["neural_rendering_resolution"] = 16
    with pytest.raises(UserError, match="sr_antialias is off"):
        generator_config(network)
