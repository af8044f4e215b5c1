"""Published networks become ours: state, configuration, report, and renders as recorded."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open

from mate3d.cameras import CameraRig
from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.network.discriminator import Discriminator, DiscriminatorConfig
from mate3d.published.card import file_sha256, make_card, report_lines
from mate3d.published.configs import infer_generator
from mate3d.published.conversion import convert_generator
from mate3d.published.names import convert_discriminator_state
from mate3d.published.networks import PublishedSnapshot, read_networks, read_published
from tests.eg3d import make_generator
from tests.golden import (
    EXPECTED,
    FACE_CONFIG,
    SNAPSHOT,
    assert_golden,
    golden_face,
    make_golden_generator,
    sub_state,
)
from tests.official_format import (
    CAT_CONFIG,
    generator_config,
    make_network,
    randomize,
    read_back,
    write_snapshot,
)


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


def test_snapshot_holds_and_renders_what_was_recorded_of_it(networks, expected):
    with safe_open(EXPECTED, "pt") as file:
        recorded = json.loads(file.metadata()["state"])
    for name, layout in recorded.items():
        state = networks[name].state
        assert layout == [[key, list(t.shape), str(t.dtype)] for key, t in state.items()]
        sums = [[t.double().sum(), t.double().abs().sum()] for t in state.values()]
        assert_golden(torch.tensor(sums, dtype=torch.float64), expected[f"sums.{name}"], 1e-9)
    generator = convert_generator(networks["G_ema"]).generator
    ws = generator.map(expected["in.z"], expected["in.c_cond"], truncation_psi=0.7)
    view = generator.synthesize(ws, expected["in.c"])
    assert_golden(ws, expected["ws"])
    assert_golden(view.image, expected["image"])
    assert_golden(view.image_raw, expected["image_raw"])
    assert_golden(view.depth, expected["image_depth"])
    assert_golden(view.segmentation_raw, expected["semantic_raw"])
    assert_golden(view.segmentation[..., ::4, ::4], expected["semantic"])
    pairs = ([view.image, view.image_raw], [view.segmentation, view.segmentation_raw])
    for recorded, network, parts in (("D", "D", pairs[:1]), ("Ds", "D_semantic", pairs)):
        config = DiscriminatorConfig(
            image_channels=3 if network == "D" else 22,
            resolution=64,
            channel_base=512,
            channel_max=24,
        )
        discriminator = Discriminator(config).eval()
        state = convert_discriminator_state(networks[network].state)
        discriminator.load_state_dict(state)
        images = [torch.cat(each, dim=1) for each in zip(*parts, strict=True)]
        assert_golden(discriminator(*images, expected["in.c"]), expected[recorded])


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
    changed.state["decoder.net_tex.0.bias"] = torch.zeros(65)
    with pytest.raises(UserError, match=r"color_head.0.bias \(65,\) instead of \(64,\)"):
        convert_generator(changed, strict=False)


def test_card_tells_source_cameras_labels_and_license(tmp_path):
    cat = tmp_path / "x.pkl"
    read_back(cat, randomize(Generator(CAT_CONFIG), seed=3))
    facts = {
        SNAPSHOT: ("`celebamask_hq`", "(0, 0, 0.2)", "D_semantic"),
        cat: ("inferred from the colours", "(0, 0, -0.06)"),
    }
    for path, texts in facts.items():
        snapshot = read_published(path)
        conversion = convert_generator(snapshot.networks["G_ema"])
        card = make_card(path, "G_ema", conversion, snapshot, precision="fp32")
        common = (file_sha256(path), path.name, "Apache-2.0 licence covers its code, not these")
        for text in (*texts, *common):
            assert text in card, text
    assert snapshot.other == {"training_set_kwargs": "dict"}
