"""The experiments hold the published hyper-parameters; ablations change what they say, no more."""

from functools import cache

import pytest
from omegaconf import DictConfig, OmegaConf

from scripts import train
from scripts._compose import compose_config, flatten, group_choices, resolve_config
from training.losses.terms import DISTANCE_TERMS

# (section of the specification of the release, option, value there)
PUBLISHED = [
    (1, "model.generator.label_set", "celebamask_hq"),
    (1, "model.generator.z_dim", 512),
    (1, "model.generator.w_dim", 512),
    (1, "model.generator.mapping_layers", 2),
    (1, "model.discriminator.mapping_layers", 8),
    (1, "model.generator.channel_base", 32768),
    (1, "model.generator.channel_max", 512),
    (1, "model.generator.plane_resolution", 256),
    (1, "model.generator.plane_channels", 32),
    (1, "model.generator.backbone_clamp", None),
    (1, "model.generator.hidden_width", 64),
    (1, "model.generator.neural_rendering_resolution", 128),
    (1, "model.generator.num_features", 32),
    (1, "model.generator.sr_input_resolution", 128),
    (1, "model.generator.sr_channels", [256, 128]),
    (1, "model.generator.sr_noise_mode", "none"),
    (1, "model.generator.sr_clamp", 256.0),
    (1, "model.generator.camera_scale", 1.0),
    (1, "model.generator.camera_rig.radius", 2.7),
    (1, "model.generator.camera_rig.target", [0.0, 0.0, 0.2]),
    (1, "model.generator.camera_rig.focal", 4.2647),
    (1, "model.generator.resolution", 512),
    (1, "model.generator.box_size", 1.0),
    (1, "model.generator.rendering.near", 2.25),
    (1, "model.generator.rendering.far", 3.3),
    (1, "model.generator.rendering.num_coarse_samples", 48),
    (1, "model.generator.rendering.num_fine_samples", 48),
    (1, "model.generator.rendering.white_background", False),
    (6, "model.generator.beta", 0.1),
    (6, "model.generator.learn_beta", False),
    (6, "model.generator.rendering.semantic_sharpness", 20.0),
    (7, "model.discriminator.channel_base", 32768),
    (7, "model.discriminator.channel_max", 512),
    (7, "model.discriminator.clamp", 256.0),
    (7, "model.discriminator.stddev_group_size", 4),
    (7, "loss.camera_noise", 0.0),
    (8.1, "optimizer.generator_reg_interval", 4),
    (8.1, "optimizer.discriminator_reg_interval", 16),
    (8.1, "optimizer.beta1", 0.0),
    (8.1, "optimizer.beta2", 0.99),
    (8.1, "optimizer.eps", 1e-8),
    (8.1, "optimizer.generator_lr", 0.0025),
    (8.1, "optimizer.discriminator_lr", 0.002),
    (8.1, "schedule.ema_kimg", 10.0),
    (8.1, "schedule.ema_rampup", 0.05),
    (8.1, "train.batch_size", 32),
    (8.1, "loss.r1_gamma", 1.0),
    (8.2, "schedule.pose_swap_probability", 0.5),
    (8.2, "schedule.pose_swap_fade_kimg", 1000.0),
    (8.2, "schedule.blur_initial_sigma", 10.0),
    (8.2, "schedule.blur_fade_kimg", 200.0),
    (8.2, "schedule.style_mixing_probability", 0.0),
    (8.2, "schedule.resolution_initial", 128),
    (8.2, "schedule.resolution_final", 128),
    (8.3, "loss.adversarial", 1.0),
    (8.3, "loss.semantic_adversarial", 0.1),
    (8.3, "loss.eikonal", 0.1),
    (8.3, "loss.minimal_surface", 0.05),
    (8.3, "loss.minimal_surface_sharpness", 100.0),
    (8.3, "loss.sdf_consistency", 0.1),
    (8.3, "loss.class_color_consistency", 0.0),
    (8.3, "loss.color_consistency", 0.0),
    (8.3, "loss.with_detached_whole", True),
    (8.3, "loss.with_detached_semantic_features", True),
    (8.3, "loss.with_detached_semantic_image", True),
    (8.4, "loss.density_smoothness", 0.25),
    (8.4, "loss.density_distance", 0.004),
    (8.4, "loss.density_points", 1000),
    (8.5, "loss.semantic_r1_gamma", 10.0),
    (8.6, "loss.sphere_radius", 0.2625),
    (8.8, "dataset.source.copies_from", 140000),
]
# (section, option, the experiment's value, the release's value: loss=released rendering=released)
DIFFERING = [
    (6.1, "model.generator.plane_layout", "xy_xz_yz", "eg3d_legacy"),
    (6.3, "model.generator.rendering.importance_bins", "intervals", "legacy_midpoints"),
    (6.4, "model.generator.rendering.density_activation", "identity", "softplus_shifted"),
    (6.5, "model.generator.rendering.background_class", 0, None),
    (8.2, "loss.with_double_blur", False, True),
    (8.3, "loss.density_consistency", 0.0001, 0.0),
    (8.3, "loss.eikonal_points", 16384, None),
    (8.4, "loss.density_extent", None, 1.0),
]
# What distinguishes cats from faces (section 1 and 8.1, 8.2).
CATS = [
    ("model.generator.label_set", "catmask_hq"),
    ("model.generator.camera_rig.target", [0.0, 0.0, -0.06]),
    ("loss.r1_gamma", 5.0),
    ("loss.semantic_r1_gamma", 50.0),
    ("schedule.pose_swap_probability", 0.8),
    ("schedule.pose_swap_fade_kimg", 0.0),
    ("schedule.blur_fade_kimg", 0.0),
    ("schedule.ema_rampup", None),
    ("augment.mode", "adaptive"),
]
RELEASED = ["loss=released", "rendering=released", "model.generator.plane_layout=eg3d_legacy"]
# The options that an ablation sets, by group.
ABLATIONS = {
    "no_sdf_consistency": {"loss.sdf_consistency"},
    "no_density_consistency": {"loss.density_consistency"},
    "no_local_sdfs": {
        "model.generator.with_local_sdfs",
        "rendering.semantic_sharpness",
        "loss.sdf_consistency",
        "loss.density_consistency",
    },
    "density_geometry": {
        "model.generator.geometry",
        "rendering.density_activation",
        "train.warm_start",
        *(f"loss.{name}" for name in DISTANCE_TERMS if "color" not in name),
    },
    "single_triplane": {"model.generator.plane_branches"},
}
EXPERIMENTS = group_choices("train", "experiment")


@cache
def compose(*words: str) -> DictConfig:
    return resolve_config(compose_config("train", [*words, "data=x", "output=x"]))


def plain(config: DictConfig, option: str):
    value = OmegaConf.select(config, option, default="no such option")
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


@pytest.fixture(scope="module")
def faces() -> DictConfig:
    return compose("experiment=ffhq_mask_512")


@pytest.fixture(scope="module")
def released() -> DictConfig:
    return compose("experiment=ffhq_mask_512", *RELEASED)


@pytest.mark.parametrize(("section", "option", "value"), PUBLISHED)
def test_faces_train_with_the_published_value(faces, released, section, option, value):
    assert plain(faces, option) == value
    assert plain(released, option) == value


@pytest.mark.parametrize(("section", "option", "ours", "theirs"), DIFFERING)
def test_release_s_own_value_is_one_choice_away(faces, released, section, option, ours, theirs):
    assert plain(faces, option) == ours
    assert plain(released, option) == theirs


@pytest.mark.parametrize(("option", "value"), CATS)
def test_cats_differ_from_faces(faces, option, value):
    cats = compose("experiment=catmask_512")
    assert plain(cats, option) == value != plain(faces, option)


def test_cats_start_from_the_faces_run():
    assert compose("experiment=catmask_512").init_from == "outputs/ffhq"


def changes(experiment: str, ablation: str) -> set[str]:
    before = dict(flatten(compose(f"experiment={experiment}")))
    after = dict(flatten(compose(f"experiment={experiment}", f"ablation={ablation}")))
    assert set(before) == set(after)
    differing = {option for option in before if before[option] != after[option]}
    # The rendering group is shown a second time where the model refers to it.
    return {o for o in differing if not o.startswith("model.generator.rendering.")}


def test_every_ablation_is_listed():
    assert set(group_choices("train", "ablation")) == set(ABLATIONS)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_ablation_changes_what_it_names_and_can_be_built(experiment, ablation):
    expected = ABLATIONS[ablation]
    if experiment.endswith("_512"):
        # These have no warm start that could be left out.
        expected = expected - {"train.warm_start"}
    if experiment == "small_cat":
        # Nor has this one, which starts from a sphere and compares no densities.
        expected = expected - {"train.warm_start", "loss.density_consistency"}
        if ablation == "density_geometry":
            expected = expected | {"train.sphere_init_steps"}
    assert changes(experiment, ablation) == expected
    config = compose(f"experiment={experiment}", f"ablation={ablation}")
    train.read_settings(config)
    train.read_generator_config(config)


def test_demo_experiments_differ_in_portraits_only():
    cats = dict(flatten(compose("experiment=demo_cat")))
    people = dict(flatten(compose("experiment=demo_face")))
    shared = set(cats) & set(people)
    differing = {name for name in shared if cats[name] != people[name]}
    assert {name for name in differing if not name.startswith("dataset.")} == {
        "model.generator.label_set",
        "model.generator.z_dim",
        "model.generator.box_size",
    }
