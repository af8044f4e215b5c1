"""Training that starts from other weights: what is copied, derived, warned of and refused."""

import dataclasses
import logging

import pytest
import torch

from mate3d.cameras import make_camera
from mate3d.checkpoint import load_generator, save_generator
from mate3d.errors import UserError
from mate3d.generator import Generator, GeneratorConfig
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ
from mate3d.network.discriminator import Discriminator, DiscriminatorConfig, DiscriminatorSizes
from mate3d.network.mapping import latents_from_seeds
from mate3d.published.networks import PublishedNetwork, read_networks
from mate3d.rendering.field import sdf_consistency_loss, sdf_gradient
from mate3d.rendering.rays import sample_rays
from mate3d.rendering.renderer import render_field
from tests.eg3d import EG3D, make_generator
from tests.golden import SNAPSHOT
from training.build_state import build_state
from training.start.init_from import (
    InitSource,
    initialize_networks,
    read_source,
    source_from_networks,
)
from training.step_inputs import Networks

# What a user trains from EG3D: distances and labels, all else alike.
MODEL = dataclasses.replace(EG3D, geometry="sdf", plane_branches="dual", label_set="catmask_hq")


def make_networks(config=MODEL, seed: int = 5) -> Networks:
    torch.manual_seed(seed)
    generator = Generator(config)
    classes = generator.label_set.num_classes
    sizes = DiscriminatorConfig(
        resolution=config.resolution, channel_base=64, channel_max=8, mapping_layers=1
    )
    return Networks(
        generator,
        Discriminator(sizes),
        Discriminator(dataclasses.replace(sizes, image_channels=3 + classes)),
    )


def make_source(generator: Generator | None = None) -> InitSource:
    generator = generator or make_generator()
    discriminator = make_networks(seed=6).discriminator.state_dict()
    return InitSource("eg3d.pkl", generator.config, generator.state_dict(), discriminator)


def head_of(generator: Generator, seed: int):
    z = latents_from_seeds([seed], generator.config.z_dim)
    return generator.make_field(generator.map(z, make_camera(yaw=0.2)))


def random_points() -> torch.Tensor:
    return torch.rand(1, 4096, 3, generator=torch.Generator().manual_seed(7)) - 0.5


@pytest.fixture
def started() -> Networks:
    """Networks of the model after starting from the tiny EG3D."""
    networks = make_networks()
    initialize_networks(networks, make_source())
    return networks


def test_surface_is_where_the_densities_of_eg3d_have_their_level(started):
    raw = head_of(make_generator(), 20)
    points = random_points()
    density = raw.density(raw.sdf(points))
    is_clear = (density - 10).abs() > 1e-3
    inside = head_of(started.generator, 20).sdf(points) < 0
    assert 0.05 < inside.float().mean() < 0.95
    assert torch.equal(inside[is_clear], (density > 10)[is_clear])


def test_distance_has_slope_one_near_the_surface(started):
    slopes = []
    for seed in range(30, 36):
        head, points = head_of(started.generator, seed), random_points().requires_grad_()
        sdf = head.sdf(points)
        gradient = sdf_gradient(sdf, points).norm(dim=-1)
        slopes.append(gradient[sdf.squeeze(-1).abs() < 0.01].detach())
    slope = torch.cat(slopes)
    # The shell is thin where the slope is large: this is the mean over the surface's area.
    assert slope.square().sum() / slope.sum() == pytest.approx(1, rel=0.2)


def test_union_of_the_parts_is_the_whole_from_the_start(started):
    samples = head_of(started.generator, 20).sample(random_points())
    loss = sdf_consistency_loss(samples.sdf, samples.class_sdf)
    assert loss < 1e-3 * samples.sdf.clamp(min=0).square().mean()
    assert (samples.class_sdf.std(dim=-1) > 0).all()


def test_pictures_look_like_the_source_s():
    networks = make_networks(dataclasses.replace(MODEL, beta=0.01))
    initialize_networks(networks, make_source())
    rays, correlations = sample_rays(make_camera(yaw=0.2), 16), []
    for seed in (20, 21, 22):
        heads = head_of(make_generator(), seed), head_of(networks.generator, seed)
        views = [render_field(head, *rays, EG3D.rendering).feature_image[0, :3] for head in heads]
        pixels = torch.stack([view.detach().flatten() for view in views])
        correlations.append(torch.corrcoef(pixels)[0, 1])
    assert torch.stack(correlations).mean() > 0.7


@pytest.mark.parametrize("geometry", ["sdf", "density"])
@pytest.mark.parametrize("branches", ["single", "dual"])
def test_other_models_start_with_the_source_s_colours_and_shape(geometry, branches):
    networks = make_networks(dataclasses.replace(MODEL, geometry=geometry, plane_branches=branches))
    initialize_networks(networks, make_source())
    source = head_of(make_generator(), 20).sample(random_points())
    ours = head_of(networks.generator, 20).sample(random_points())
    torch.testing.assert_close(ours.features, source.features)
    if geometry == "density":
        # Densities are decoded alone or with colours, and rounded differently.
        torch.testing.assert_close(ours.sdf, source.sdf, rtol=1e-5, atol=1e-4)
    else:
        assert ((ours.sdf < 0) == (source.sdf < 0)).float().mean() > 0.999


def test_networks_of_segmentations_start_from_those_of_images(started):
    source = make_source()
    state = started.generator.state_dict()
    for name, tensor in source.generator.items():
        if name.startswith("superresolution."):
            assert torch.equal(state[name], tensor)
            twin = state[f"segmentation_{name}"]
            assert ".to_image." in name or torch.equal(twin, tensor)
    semantic = started.semantic_discriminator.state_dict()
    for name, tensor in source.discriminator.items():
        assert torch.equal(started.discriminator.state_dict()[name], tensor)
        assert ".from_image." in name or torch.equal(semantic[name], tensor)


def test_mapping_acts_the_same_at_another_learning_rate():
    networks = make_networks(dataclasses.replace(MODEL, mapping_lr_multiplier=1.0))
    initialize_networks(networks, make_source())
    z, camera = latents_from_seeds([3], 8), make_camera(yaw=0.2)
    torch.testing.assert_close(networks.generator.map(z, camera), make_generator().map(z, camera))


def test_average_starts_from_the_source_too(tiny_settings):
    sizes = DiscriminatorSizes(channel_base=64, channel_max=8, mapping_layers=1)
    place = make_camera(yaw=0.0), torch.device("cpu")
    state = build_state(MODEL, sizes, tiny_settings, *place, make_source())
    for name, tensor in state.average.state_dict().items():
        assert torch.equal(tensor, state.networks.generator.state_dict()[name])
    const = "backbone.blocks.b4.const"
    assert torch.equal(state.average.state_dict()[const], make_generator().state_dict()[const])


def test_own_checkpoint_is_copied_whole(tmp_path, caplog):
    save_generator(tmp_path / "model", make_generator(**vars(MODEL)))
    networks = make_networks()
    initialize_networks(networks, read_source(str(tmp_path / "model")))
    expected = load_generator(tmp_path / "model").state_dict()
    for name, tensor in networks.generator.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_run_folder_gives_its_discriminators_too(make_trainer, tmp_path):
    trainer, state = make_trainer(tmp_path / "run")
    trainer.run()
    source = read_source(str(tmp_path / "run"))
    for name in ("discriminator", "semantic_discriminator"):
        expected = getattr(state.networks, name).state_dict()
        assert all(
            torch.equal(tensor, expected[key]) for key, tensor in getattr(source, name).items()
        )
    for name, tensor in state.average.state_dict().items():
        assert torch.equal(source.generator[name], tensor)


def test_published_snapshot_gives_all_three_networks(caplog):
    source = read_source(str(SNAPSHOT))
    networks = _published_networks(source, source.config)
    initialize_networks(networks, source)
    for network, state in (
        (networks.generator, source.generator),
        (networks.discriminator, source.discriminator),
        (networks.semantic_discriminator, source.semantic_discriminator),
    ):
        assert set(state) == set(network.state_dict())
        assert all(torch.equal(network.state_dict()[name], state[name]) for name in state)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def _published_networks(source: InitSource, config: GeneratorConfig) -> Networks:
    sizes = DiscriminatorConfig(
        resolution=config.resolution,
        channel_base=config.channel_base,
        channel_max=source.discriminator["head.fc.weight"].shape[0],
    )
    semantic = dataclasses.replace(sizes, image_channels=22)
    return Networks(Generator(config), Discriminator(sizes), Discriminator(semantic))


def _published_eg3d() -> dict[str, PublishedNetwork]:
    """Return the MaTe3D snapshot's networks with EG3D's one branch, one head and no masks."""
    networks = read_networks(SNAPSHOT)
    network, state = networks["G_ema"], {}
    for name, tensor in network.state.items():
        if name.startswith("decoder.net_tex."):
            part = name.removeprefix("decoder.net_tex.")
            density = network.state[f"decoder.net_main_shp.{part}"]
            rows = [density, tensor] if part.startswith("2.") else [tensor]
            state[f"decoder.net.{part}"] = torch.cat(rows)
        elif not any(word in name for word in ("torgb_shp", "_semantic", "decoder.")):
            state[name.replace("torgb_tex", "torgb")] = tensor
    attributes = {
        name: value
        for name, value in network.attributes.items()
        if not any(word in name for word in ("torgb_", "_semantic", "decoder."))
    }
    eg3d = dataclasses.replace(network, state=state, attributes=attributes)
    return {"G_ema": eg3d, "D": networks["D"]}


def test_published_eg3d_starts_a_labelled_model_with_both_discriminators(caplog):
    caplog.set_level(logging.INFO)
    source = source_from_networks("eg3d.pkl", _published_eg3d())
    assert (source.config.geometry, source.config.plane_branches) == ("density", "single")
    config = dataclasses.replace(
        source.config, geometry="sdf", plane_branches="dual", label_set="celebamask_hq"
    )
    networks = _published_networks(source, config)
    initialize_networks(networks, source)
    snapshot = read_source(str(SNAPSHOT)).generator
    state = networks.generator.state_dict()
    for name in state:
        if ".to_image.shape." in name:
            assert torch.equal(state[name], snapshot[name.replace("shape", "texture")])
        elif name.startswith(("mapping", "backbone", "superresolution", "decoder.color_head")):
            assert torch.equal(state[name], snapshot[name]), name
    left = [line for line in caplog.messages if "keep their initial values" in line]
    assert [line.split(":")[0].strip() for line in left] == ["generator"]
    assert "(segmentation_superresolution.blocks)" in left[0]


def test_log_says_how_to_keep_the_source_s_meaning(caplog):
    caplog.set_level(logging.INFO)
    other = {"density_activation": "identity", "importance_bins": "intervals"}
    rendering = dataclasses.replace(MODEL.rendering, **other)
    changes = {"background": "learned", "plane_layout": "xy_xz_yz", "rendering": rendering}
    initialize_networks(make_networks(dataclasses.replace(MODEL, **changes)), make_source())
    for option in (
        "model.generator.background=transparent",
        "model.generator.plane_layout=eg3d_legacy",
        "rendering.density_activation=softplus_shifted",
        "rendering.importance_bins=legacy_midpoints",
    ):
        assert option in caplog.text
    assert "keep their initial values (background_head" in caplog.text


def test_empty_space_that_absorbs_is_warned_of_and_the_advised_beta_clears_it(caplog):
    initialize_networks(make_networks(), make_source())
    (line,) = [r.getMessage() for r in caplog.records if "level off" in r.getMessage()]
    advised = float(line.split("model.generator.beta=")[1].split()[0])
    caplog.clear()
    initialize_networks(make_networks(dataclasses.replace(MODEL, beta=advised)), make_source())
    assert "level off" not in caplog.text


def test_source_without_a_surface_is_said_to_have_none(caplog):
    empty = make_generator()
    with torch.no_grad():
        empty.decoder.density_head[2].bias[0] -= 1000
    initialize_networks(make_networks(), make_source(empty))
    assert "never crosses 10" in caplog.text


@pytest.mark.parametrize("source", [EG3D, MODEL], ids=["density", "sdf"])
@pytest.mark.parametrize(
    ("changes", "consequence", "option"),
    [
        ({"hidden_width": 12}, "the whole decoder", "model.generator.hidden_width=16"),
        ({"sr_channels": (8, 4)}, "super-resolution is", "model.generator.sr_channels=[6,4]"),
        ({"num_features": 4}, "layers that write or read", "model.generator.num_features=5"),
    ],
)
def test_parts_of_other_sizes_are_warned_of_with_the_option_that_copies_them(
    caplog, source, changes, consequence, option
):
    networks = make_networks(dataclasses.replace(MODEL, **changes))
    before = networks.generator.decoder.sdf_head[2].weight.clone()
    initialize_networks(networks, make_source(make_generator(**vars(source))))
    is_as_before = torch.equal(networks.generator.decoder.sdf_head[2].weight, before)
    assert is_as_before == ("hidden_width" in changes)
    lines = [r.getMessage().strip() for r in caplog.records if r.levelno == logging.WARNING]
    (line,) = [line for line in lines if consequence in line]
    assert option in line


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        (EG3D, {"z_dim": 9}, r"z_dim 8 \(model: 9\); .*model.generator.z_dim=8 or"),
        (
            EG3D,
            {"channel_max": 4, "channel_base": 128},
            r"backbone channels \[8, 8\] \(model: \[4, 4\]\); "
            ".*model.generator.channel_base=64 model.generator.channel_max=8 or",
        ),
        (
            MODEL,
            {"plane_branches": "single"},
            r"plane_branches dual \(model: single\); .*model.generator.plane_branches=dual or",
        ),
    ],
)
def test_other_sizes_are_one_clear_error(source, changes, message):
    networks = make_networks(dataclasses.replace(MODEL, **changes))
    with pytest.raises(UserError, match=message) as caught:
        initialize_networks(networks, make_source(make_generator(**vars(source))))
    assert "\n" not in str(caught.value)


# Sources of other labels.


def test_heads_of_other_labels_start_from_the_whole_head():
    source = make_source(make_generator(**vars(MODEL)))
    networks = make_networks(dataclasses.replace(MODEL, label_set="celebamask_hq"))
    initialize_networks(networks, source)
    samples = head_of(networks.generator, 20).sample(random_points())
    assert samples.class_sdf.shape[-1] == 19
    close = (samples.class_sdf - samples.sdf).abs().mean() / samples.sdf.abs().mean()
    assert 0 < close < 0.1


def other_labels() -> tuple[Networks, InitSource]:
    """Return new networks of cats, and a source of people with a semantic discriminator."""
    people = make_networks(dataclasses.replace(MODEL, label_set="celebamask_hq"), seed=8)
    states = [
        network.state_dict()
        for network in (people.generator, people.discriminator, people.semantic_discriminator)
    ]
    return make_networks(), InitSource("faces", people.generator.config, *states)


def test_segmentation_of_other_labels_keeps_the_classes_of_the_same_name():
    networks, source = other_labels()
    before = {name: t.clone() for name, t in networks.generator.state_dict().items()}
    initialize_networks(networks, source)
    after, prefix = networks.generator.state_dict(), "segmentation_superresolution.blocks.0"
    assert torch.equal(after[f"{prefix}.conv1.weight"], source.generator[f"{prefix}.conv1.weight"])
    name = f"{prefix}.to_image.image.weight"
    for class_name in ("background", "skin", "nose", "mouth"):
        ours, theirs = CATMASK_HQ.class_id(class_name), CELEBAMASK_HQ.class_id(class_name)
        assert torch.equal(after[name][ours], source.generator[name][theirs])
    for class_name in ("ears", "eyes"):
        ours = CATMASK_HQ.class_id(class_name)
        assert torch.equal(after[name][ours], before[name][ours])


def test_semantic_discriminator_of_other_labels_judges_what_both_know_as_before():
    networks, source = other_labels()
    initialize_networks(networks, source)
    theirs = make_networks(source.config).semantic_discriminator
    theirs.load_state_dict(source.semantic_discriminator)
    cats, people = torch.randn(2, 9, 16, 16), torch.zeros(2, 22, 16, 16)
    # Ears and eyes have no equal: what stands there must not matter.
    people[:, :3] = cats[:, :3]
    for class_name in ("background", "skin", "nose", "mouth"):
        channel = 3 + CELEBAMASK_HQ.class_id(class_name)
        people[:, channel] = cats[:, 3 + CATMASK_HQ.class_id(class_name)]
    camera = make_camera(yaw=torch.zeros(2))
    torch.testing.assert_close(
        networks.semantic_discriminator(cats, cats, camera), theirs(people, people, camera)
    )
