"""Published networks become ours: state, configuration, report, comparison with recorded values."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mate3d.cameras import CameraRig, make_camera
from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.published.card import file_sha256, make_card, report_lines
from mate3d.published.configs import discriminator_config, generator_config, infer_generator
from mate3d.published.conversion import convert_generator
from mate3d.published.facts import channel_rule
from mate3d.published.networks import PublishedSnapshot, read_networks, read_published
from mate3d.published.verify import Expected, comparison_picture, load_expected, verify
from tests.eg3d import make_generator
from tests.golden import FACE_CONFIG, assert_golden, golden_face, make_golden_generator, sub_state
from tests.official_format import (
    CAT_CONFIG,
    build_tree,
    make_network,
    published_state,
    randomize,
    write_snapshot,
)

DATA = Path(__file__).parents[1] / "data"
SNAPSHOT = DATA / "official_format_face_small.pkl"
EXPECTED = DATA / "official_format_face_small_expected.safetensors"


@pytest.fixture(scope="module")
def networks():
    return read_networks(SNAPSHOT)


@pytest.fixture(scope="module")
def expected():
    return load_expected(EXPECTED)


def read_back(path: Path, generator: Generator, **changes):
    """Write a generator as a release would and read it."""
    network = make_network(generator, published_state(generator), **changes)
    return read_networks(write_snapshot(path, G_ema=network))["G_ema"]


def test_names_shapes_types_and_sums_are_those_of_the_developers(networks, expected):
    assert list(networks) == ["G", "G_ema", "D", "D_semantic"]
    for name, entries in expected.state.items():
        state = networks[name].state
        assert [(n, tuple(t.shape), str(t.dtype)) for n, t in state.items()] == entries
        sums = [[t.double().sum(), t.double().abs().sum()] for t in state.values()]
        torch.testing.assert_close(torch.tensor(sums), expected.tensors[f"sums.{name}"])


def test_everything_carried_is_there(networks):
    network = networks["G_ema"]
    assert network.class_name == "TriPlaneGenerator" and network.init_args == ()
    assert network.init_kwargs["mapping_kwargs"] == {"num_layers": 2}
    assert network.attributes["rendering_kwargs"]["avg_camera_pivot"] == [0, 0, 0.2]
    assert network.attributes["superresolution.block1.conv0.up"] == 2
    assert network.attributes["renderer.plane_axes"].device.type == "cpu"


def test_configuration_of_the_developers_snapshot_is_inferred(networks):
    golden = dataclasses.replace(
        FACE_CONFIG,
        z_dim=24,
        w_dim=32,
        channel_base=512,
        channel_max=24,
        sr_channels=(16, 8),
        beta=0.12,
        camera_rig=CameraRig(radius=2.7, target=(0.0, 0.0, 0.2), focal=4.2647),
    )
    assert generator_config(networks["G_ema"]) == golden
    inferred = infer_generator(networks["G_ema"])
    assert inferred.problems == [] and inferred.notes == []
    sizes = discriminator_config(networks["D_semantic"])
    assert (sizes.image_channels, sizes.resolution, sizes.channel_base) == (22, 64, 512)
    assert (sizes.channel_max, sizes.mapping_layers, sizes.clamp) == (24, 8, 256.0)


def test_recorded_renders_are_reproduced(networks, expected):
    generator = convert_generator(networks["G_ema"]).generator
    result = verify(networks, generator, expected)
    assert result.is_verified, result.lines()
    names = {"ws", "image", "image_raw", "image_depth", "semantic", "semantic_raw", "D", "Ds"}
    assert set(result.outputs) == names
    assert max(error for error, _ in result.errors.values()) < 1e-5
    picture = comparison_picture(expected, result, generator.label_set)
    assert picture.shape == (3, 4 * 2 * 64, 3 * 64)
    left, middle, right = picture.split(64, dim=-1)
    torch.testing.assert_close(left, middle, atol=1e-4, rtol=0)
    assert right.abs().max() < 0.05


def test_a_wrong_weight_fails_in_sums_and_pictures(networks, expected):
    other = dict(networks, G_ema=networks["G"])
    result = verify(other, convert_generator(networks["G"]).generator, expected)
    assert not result.is_verified
    too_large = {name for name, (error, allowed) in result.errors.items() if error > allowed}
    assert {"sums.G_ema", "ws", "image", "semantic"} <= too_large
    assert any("too large" in line for line in result.lines())


def test_one_changed_number_fails_its_sum(networks, expected):
    changed = dict(networks["D"].state)
    changed["b4.fc.weight"] = changed["b4.fc.weight"].clone()
    changed["b4.fc.weight"][0, 0] += 1e-3
    other = networks | {"D": dataclasses.replace(networks["D"], state=changed)}
    result = verify(other, convert_generator(networks["G_ema"]).generator, expected)
    assert not result.is_verified and result.errors["sums.D"][0] > 1e-9


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda e: e.state["D"].pop(), "D has other tensors than recorded; 1 differ"),
        (lambda e: e.state["G"].reverse(), "(their order)"),
        (lambda e: e.state.update(X=[]), "no network X"),
        (lambda e: e.tensors.update(image=torch.zeros(1, 3, 2, 2)), "image has the shape"),
        (lambda e: e.tensors.update({"in.z": torch.zeros(2, 3)}), "in.z has the shape"),
        (lambda e: e.tensors.update({"in.c": torch.zeros(3, 25)}), "in.c has the shape"),
        (lambda e: e.tensors.update(other=torch.zeros(1)), "other is recorded but was not"),
    ],
)
def test_what_cannot_be_compared_is_a_mismatch(networks, edit, word):
    expected = load_expected(EXPECTED)
    edit(expected)
    result = verify(networks, convert_generator(networks["G_ema"]).generator, expected)
    assert not result.is_verified
    assert word in " ".join(result.mismatches)


def test_values_that_are_not_numbers_are_not_verified(networks, expected):
    broken = Expected(expected.state, expected.tensors | {"ws": torch.full((2, 8, 32), torch.nan)})
    result = verify(networks, convert_generator(networks["G_ema"]).generator, broken)
    assert not result.is_verified


def test_other_files_are_no_recorded_values(tmp_path):
    with pytest.raises(UserError, match="not found"):
        load_expected(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        load_expected(SNAPSHOT)
    save_file({"in.z": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="lack in.c, in.c_cond, image"):
        load_expected(tmp_path / "x.safetensors")
    save_file(load_file(EXPECTED), tmp_path / "x.safetensors", {"state": json.dumps([1])})
    with pytest.raises(UserError, match="cannot be read"):
        load_expected(tmp_path / "x.safetensors")


def test_a_golden_state_in_official_format_renders_its_recorded_image(tmp_path):
    network = make_network(make_golden_generator(), sub_state("state.G."))
    found = read_networks(write_snapshot(tmp_path / "x.pkl", G_ema=network))["G_ema"]
    conversion = convert_generator(found)
    config = dataclasses.replace(conversion.generator.config, camera_rig=FACE_CONFIG.camera_rig)
    assert config == dataclasses.replace(FACE_CONFIG, beta=0.12)
    face = golden_face()
    view = conversion.generator.synthesize(face["in.ws"], face["in.c"])
    assert_golden(view.image, face["r16.image"])
    assert_golden(view.segmentation, face["r16.semantic"])


def test_a_cat_of_other_sizes_becomes_ours(tmp_path):
    generator = randomize(Generator(CAT_CONFIG), seed=3)
    conversion = convert_generator(read_back(tmp_path / "x.pkl", generator))
    assert conversion.generator.config == CAT_CONFIG
    assert conversion.generator.label_set.num_classes == 6
    ws = generator.map(torch.ones(1, 16), make_camera(yaw=0.2))
    ours = conversion.generator.map(torch.ones(1, 16), make_camera(yaw=0.2))
    assert torch.equal(ours, ws)
    camera = make_camera(yaw=0.1)
    expected = generator.synthesize(ws, camera)
    view = conversion.generator.synthesize(ws, camera)
    assert torch.equal(view.image, expected.image)
    assert torch.equal(view.segmentation, expected.segmentation)


def test_an_eg3d_generator_becomes_ours(tmp_path):
    generator = make_generator()
    state = published_state(generator)
    # The lineage's narrow super-resolution carries a filter that it does not use.
    state["superresolution.resample_filter"] = torch.ones(4, 4)
    network = make_network(generator, state)
    conversion = convert_generator(
        read_networks(write_snapshot(tmp_path / "x.pkl", G_ema=network))["G_ema"]
    )
    assert conversion.generator.config == generator.config
    assert "filter" in conversion.skipped["superresolution.resample_filter"]
    ws = torch.randn(1, generator.num_ws, generator.config.w_dim)
    camera = make_camera(yaw=0.1)
    view = conversion.generator.synthesize(ws, camera)
    assert torch.equal(view.image, generator.synthesize(ws, camera).image)
    assert view.segmentation is None


@pytest.mark.parametrize(
    ("start", "final"), [(8, 16), (16, 16), (8, 32)], ids=["last", "none", "both"]
)
def test_super_resolutions_that_double_less_often_are_told_by_shapes(tmp_path, start, final):
    generator = make_generator(sr_input_resolution=start, resolution=final)
    assert generator_config(read_back(tmp_path / "x.pkl", generator)) == generator.config


@pytest.mark.parametrize(
    ("axes", "layout"),
    [
        (((0, 1, 2), (0, 2, 1), (2, 0, 1)), "eg3d_legacy"),
        (((0, 1, 2), (0, 2, 1), (2, 1, 0)), "xy_xz_zy"),
        (((0, 1, 2), (0, 2, 1), (1, 2, 0)), "xy_xz_yz"),
        (None, "eg3d_legacy"),
    ],
)
def test_plane_layout_is_read_from_the_file(tmp_path, axes, layout):
    network = read_back(tmp_path / "x.pkl", make_generator())
    del network.attributes["renderer.plane_axes"]
    if axes is not None:
        network.attributes["renderer.plane_axes"] = torch.eye(3)[torch.tensor(axes)]
    inferred = infer_generator(network)
    assert inferred.config.plane_layout == layout
    assert bool(inferred.notes) == (axes is None)


def test_unknown_plane_layouts_are_refused(networks):
    for axes in (torch.eye(3), torch.eye(3)[torch.tensor([[1, 0, 2]] * 3)], torch.rand(3, 3, 3)):
        attributes = networks["G_ema"].attributes | {"renderer.plane_axes": axes}
        with pytest.raises(UserError, match="plane layout"):
            generator_config(dataclasses.replace(networks["G_ema"], attributes=attributes))


def test_edited_rendering_options_win_over_constructor_arguments(tmp_path):
    network = read_back(tmp_path / "x.pkl", make_generator(), ray_end=3.1, white_back=True)
    assert network.init_kwargs["rendering_kwargs"]["ray_end"] == 3.3
    config = generator_config(network)
    assert config.rendering.far == 3.1 and config.rendering.white_background
    del network.attributes["rendering_kwargs"]
    assert generator_config(network).rendering.far == 3.3


@pytest.mark.parametrize(
    ("changes", "scale"),
    [({"c_scale": 0.5}, 0.5), ({"c_gen_conditioning_zero": True}, 0.0), ({"c_scale": 1}, 1.0)],
)
def test_conditioning_scale_follows_the_options(tmp_path, changes, scale):
    network = read_back(tmp_path / "x.pkl", make_generator(), **changes)
    assert generator_config(network).camera_scale == scale


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


def test_other_label_counts_are_refused(networks):
    state = dict(networks["G_ema"].state)
    for name in [name for name in state if "bbbb_18" in name]:
        del state[name]
    with pytest.raises(UserError, match="18 local heads; known are 19 .* and 6"):
        generator_config(dataclasses.replace(networks["G_ema"], state=state))


def test_discriminators_are_no_generators_and_the_reverse(networks):
    with pytest.raises(UserError, match="DualDiscriminator has no rendering_kwargs"):
        generator_config(networks["D"])
    with pytest.raises(UserError, match="TriPlaneGenerator has no tensor"):
        discriminator_config(networks["G"])


def test_strict_conversion_refuses_what_does_not_fit_and_otherwise_lists_it(networks):
    network = networks["G_ema"]
    state = dict(network.state)
    missing = "superresolution_semantic.block1.conv1.bias"
    del state[missing]
    state["decoder.extra.weight"] = torch.zeros(3)
    state["backbone.mapping.w_avg"] = torch.full((32,), torch.nan)
    changed = dataclasses.replace(network, state=state)
    with pytest.raises(UserError) as info:
        convert_generator(changed)
    for text in ("decoder.extra.weight", "blocks.1.conv1.bias", "not finite in mapping.w_avg"):
        assert text in str(info.value)
    conversion = convert_generator(changed, strict=False)
    assert conversion.initialised == ["segmentation_superresolution.blocks.1.conv1.bias"]
    assert "decoder.extra.weight" in conversion.skipped
    lines = report_lines(conversion, PublishedSnapshot({"G_ema": changed}, {}), "G_ema")
    assert any("decoder.extra.weight" in line and "no such tensor" in line for line in lines)
    assert lines[-1] == "problem: values that are not finite in mapping.w_avg"


def test_wrong_shapes_are_refused_even_when_not_strict(networks):
    state = networks["G_ema"].state | {"decoder.net_tex.0.bias": torch.zeros(65)}
    with pytest.raises(UserError, match=r"color_head.0.bias \(65,\) instead of \(64,\)"):
        convert_generator(dataclasses.replace(networks["G_ema"], state=state), strict=False)


def test_card_tells_source_cameras_labels_and_license():
    snapshot = read_published(SNAPSHOT)
    conversion = convert_generator(snapshot.networks["G_ema"])
    card = make_card(
        SNAPSHOT, "G_ema", conversion, snapshot, dtype="float32", verification=["ws 1e-7"]
    )
    for text in (
        file_sha256(SNAPSHOT),
        "official_format_face_small.pkl",
        "plane_layout: eg3d_legacy",
        "density_activation: softplus_shifted",
        "`celebamask_hq`",
        "(0, 0, 0.2)",
        "Apache-2.0 license covers its code, not these",
        "D_semantic",
        "ws 1e-7",
    ):
        assert text in card, text


def test_card_of_a_cat_says_that_its_label_order_is_inferred(tmp_path):
    generator = randomize(Generator(CAT_CONFIG), seed=3)
    network = read_back(tmp_path / "x.pkl", generator)
    snapshot = read_published(tmp_path / "x.pkl")
    conversion = convert_generator(network)
    path = tmp_path / "x.pkl"
    card = make_card(path, "G_ema", conversion, snapshot, dtype="float32", verification=[])
    assert "4 is the mouth and 5 the nose is inferred" in card
    assert "(0, 0, -0.06)" in card and "Not compared" in card
    assert snapshot.other == {"training_set_kwargs": "dict"}


def test_a_tree_with_two_tensors_of_one_name_is_refused(tmp_path):
    tree = build_tree({"a.weight": torch.zeros(2)}, "T", {})
    tree.attributes["_buffers"]["weight"] = torch.zeros(2)
    tree.attributes["_parameters"]["weight"] = torch.zeros(2)
    with pytest.raises(UserError, match="two tensors called weight"):
        read_networks(write_snapshot(tmp_path / "x.pkl", G=tree))
