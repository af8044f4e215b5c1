"""The experiments hold the published hyper-parameters; ablations change what they say, no more."""

import math
from functools import cache
from typing import Any

import pytest
import torch
import yaml

from mate3d.options import config_to_dict
from scripts._compose import flatten, read_options
from scripts._words import script_groups
from scripts.train import TrainOptions
from training.build_state import build_state
from training.losses.terms import DISTANCE_TERMS

# What the release trains with, by sections 1 and 6 to 8 of its specification.
PUBLISHED = yaml.safe_load(
    """
model.generator: {
  label_set: celebamask_hq, z_dim: 512, w_dim: 512, mapping_layers: 2, channel_base: 32768,
  channel_max: 512, plane_resolution: 256, plane_channels: 32, backbone_clamp: null,
  hidden_width: 64, neural_rendering_resolution: 128, num_features: 32,
  sr_input_resolution: 128, sr_channels: [256, 128], sr_noise_mode: none, sr_clamp: 256.0,
  camera_scale: 1.0, resolution: 512, box_size: 1.0, beta: 0.1, learn_beta: false
}
model.discriminator: {
  mapping_layers: 8, channel_base: 32768, channel_max: 512, clamp: 256.0, stddev_group_size: 4
}
model.generator.camera_rig: {radius: 2.7, target: [0.0, 0.0, 0.2], focal: 4.2647}
rendering: {
  near: 2.25, far: 3.3, num_coarse_samples: 48, num_fine_samples: 48, white_background: false,
  semantic_sharpness: 20.0
}
loss: {
  camera_noise: 0.0, r1_gamma: 1.0, adversarial: 1.0, semantic_adversarial: 0.1, eikonal: 0.1,
  minimal_surface: 0.05, minimal_surface_sharpness: 100.0, sdf_consistency: 0.1,
  class_color_consistency: 0.0, color_consistency: 0.0, with_detached_whole: true,
  with_detached_semantic_features: true, with_detached_semantic_image: true,
  density_smoothness: 0.25, density_distance: 0.004, density_points: 1000,
  semantic_r1_gamma: 10.0, sphere_radius: 0.2625
}
optimizer: {
  generator_reg_interval: 4, discriminator_reg_interval: 16, beta1: 0.0, beta2: 0.99,
  eps: 1.0e-8, generator_lr: 0.0025, discriminator_lr: 0.002
}
schedule: {
  ema_kimg: 10.0, ema_rampup: 0.05, pose_swap_probability: 0.5, pose_swap_fade_kimg: 1000.0,
  blur_initial_sigma: 10.0, blur_fade_kimg: 200.0, style_mixing_probability: 0.0,
  resolution_final: 128
}
train: {batch_size: 32}
dataset: {copies_from: 140000}
"""
)
# What the release does not say, from EG3D, and what is ours.
CHOSEN = {
    "with_flips": True,
    "train.total_kimg": 27500.0,
    "train.sphere_init_steps": 1000,
    "schedule.resolution_initial": 64,
    "schedule.resolution_hold_kimg": 25000.0,
    "schedule.resolution_fade_kimg": 1000.0,
    "metrics.features": "auto",
    "metrics.num_samples": 10000,
}
# Option, the experiment's value, the release's value: loss=released rendering=released.
DIFFERING = [
    ("model.generator.plane_layout", "xy_xz_yz", "eg3d_legacy"),
    ("rendering.importance_bins", "intervals", "legacy_midpoints"),
    ("rendering.density_activation", "identity", "softplus_shifted"),
    ("rendering.background_class", 0, None),
    ("loss.with_double_blur", False, True),
    ("loss.density_consistency", 0.0001, 0.0),
    ("loss.eikonal_points", 16384, None),
    ("schedule.beta_final", 0.0012, None),
    ("loss.density_extent", None, 1.0),
]
# What distinguishes cats from faces.
CATS = {
    "model.generator.label_set": "catmask_hq",
    "model.generator.camera_rig.target": [0.0, 0.0, -0.06],
    "loss.r1_gamma": 5.0,
    "loss.semantic_r1_gamma": 50.0,
    "schedule.pose_swap_probability": 0.8,
    "schedule.pose_swap_fade_kimg": 0.0,
    "schedule.blur_fade_kimg": 0.0,
    "schedule.ema_rampup": None,
    "schedule.resolution_hold_kimg": 0.0,
    "train.total_kimg": 5000.0,
    "augment.mode": "adaptive",
    "init_from": "outputs/train_ffhq",
}
EXPERIMENTS = script_groups("train")["experiment"]
FACES = "experiment=ffhq_mask_512"
RELEASED = ["loss=released", "rendering=released", "model.generator.plane_layout=eg3d_legacy"]
RELEASED += ["schedule.beta_final=null"]
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
        "train.sphere_init_steps",
        "schedule.beta_final",
        *(f"loss.{name}" for name in DISTANCE_TERMS if "color" not in name),
    },
    "single_triplane": {"model.generator.plane_branches"},
}


@cache
def read(*words: str) -> TrainOptions:
    return read_options("train", [*words, "data=x", "output=x"])


@cache
def compose(*words: str) -> dict[str, Any]:
    """Return the options of train by path."""
    return dict(flatten(config_to_dict(read(*words))))


def test_faces_train_with_the_published_values_and_the_release_s_own_are_one_choice_away():
    faces, released = compose(FACES), compose(FACES, *RELEASED)
    for group, options in PUBLISHED.items():
        for name, value in options.items():
            option = f"{group}.{name}"
            assert faces[option] == value == released[option], option
    assert faces | CHOSEN == faces
    for option, ours, theirs in DIFFERING:
        assert (faces[option], released[option]) == (ours, theirs), option


def test_cats_differ_from_faces():
    faces, cats = compose(FACES), compose("experiment=catmask_512")
    for option, value in CATS.items():
        assert cats[option] == value != faces[option], option
    same = CHOSEN.keys() - CATS.keys()
    assert all(cats[option] == CHOSEN[option] for option in same)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("ablation", script_groups("train")["ablation"])
def test_ablation_changes_what_it_names(experiment, ablation):
    before, after = (
        compose(f"experiment={experiment}", f"ablation={choice}") for choice in ("null", ablation)
    )
    assert set(before) == set(after)
    changed = {option for option in before if before[option] != after[option]}
    # An experiment may have some of the values already.
    assert changed <= ABLATIONS[ablation] and (changed or ablation == "no_density_consistency")
    values = compose("experiment=demo_cat", f"ablation={ablation}")
    assert all(after[option] == values[option] for option in ABLATIONS[ablation])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("ablation", ["null", *script_groups("train")["ablation"]])
def test_experiment_starts_with_and_without_ablation(experiment, ablation):
    options = read(f"experiment={experiment}", f"ablation={ablation}")
    loop = options.settings.loop
    # Procedural heads need real numbers.
    device = torch.device("meta" if loop.warm_start == "none" else "cpu")
    with device:
        state = build_state(
            options.generator_config,
            options.model.discriminator,
            options.settings,
            torch.zeros(2, 25),
            device,
        )
    is_due = {"sphere_init": loop.sphere_init_steps, "warm_start": loop.warm_start != "none"}
    assert [stage.name for stage in state.stages] == [name for name in is_due if is_due[name]]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_sphere_fits_the_box_and_the_pictures(experiment):
    options = read(f"experiment={experiment}")
    radius, rig = options.loss.sphere_radius, options.model.generator.camera_rig
    assert radius < 0.8 * options.model.generator.box_size / 2
    # Half the width of the picture where the sphere is widest.
    assert 0.7 < radius / math.sqrt(rig.radius**2 - radius**2) * 2 * rig.focal < 1


def test_weights_of_another_run_stay_as_they_are():
    words = ["experiment=ffhq_mask_512", "init_from=outputs/other"]
    assert read(*words[:1]).settings.loop.sphere_init_steps == 1000
    assert read(*words).settings.loop.sphere_init_steps == 0
