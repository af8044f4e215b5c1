"""Every released training term and its gradient (tests/data/README.md, `train.*`)."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from mate3d.labels import one_hot_mask
from mate3d.published.names import discriminator_name, generator_name
from mate3d.rendering.renderer import march_classes
from tests.golden import (
    DATA,
    assert_golden,
    golden_face,
    make_golden_discriminator,
    make_golden_generator,
)
from training import steps
from training.losses import formulas
from training.losses.terms import LossSettings
from training.optimization.schedules import ScheduleValues
from training.step_inputs import Latents, Networks, RealBatch, StepContext

# The release, with the two consistency terms that it reports but does not weigh left out.
RELEASED = LossSettings(eikonal_points=None, with_double_blur=True)
PLAIN, SWAPPED_AND_BLURRED = (
    StepContext(
        ScheduleValues(resolution=16, blur_sigma=sigma, pose_swap_probability=swap),
        noise_mode="const",
        depth_mode="fixed",
    )
    for sigma, swap in ((0.0, 0.0), (1.5, 1.0))
)


@pytest.fixture
def networks() -> Networks:
    return Networks(
        make_golden_generator().train(),
        make_golden_discriminator("D").train(),
        make_golden_discriminator("Ds").train(),
    )


@pytest.fixture
def latents() -> Latents:
    return Latents(golden_face()["in.z"], golden_face()["in.c"])


@pytest.fixture
def real() -> RealBatch:
    face = golden_face()
    mask = one_hot_mask(face["real.seg_ids"], 19)
    return RealBatch(face["real.image"], mask, face["real.c"])


def check_gradients(module, case, names_key, rename):
    with safe_open(DATA / "golden_face.safetensors", "pt") as file:
        names = json.loads(file.metadata()[f"param_names_{names_key}"])
    parameters = dict(module.named_parameters())
    gradients = [parameters[rename(name)].grad for name in names]
    # No gradient (-1) and a gradient of zero train alike.
    flat = [torch.zeros(1).double() if g is None else g.flatten().double() for g in gradients]
    norms = torch.stack([one.norm() for one in flat])
    probes = torch.stack([one @ torch.arange(len(one)).double().cos() for one in flat])
    expected_norms = golden_face()[f"train.{case}.gradnorm"].double().clamp(min=0)
    expected_probes = golden_face()[f"train.{case}.gradprobe"].double()
    # Every parameter on its own scale, but for those whose gradient is mostly rounding.
    scale = torch.maximum(expected_norms, expected_probes.abs())
    scale = scale.clamp(min=0.1 * float(scale.max()))
    assert float(((norms - expected_norms).abs() / scale).max()) < 2e-4
    assert float(((probes - expected_probes).abs() / scale).max()) < 2e-4


def check_metrics(metrics, case, num_recorded):
    """Compare what was recorded: not every metric of ours."""
    face = golden_face()
    names = [name for name in metrics if f"train.{case}.{name}" in face]
    assert len(names) == num_recorded
    for name in names:
        assert_golden(metrics[name].squeeze(), face[f"train.{case}.{name}"].squeeze())


def check_discriminator(networks, name, case, metrics):
    check_metrics(metrics, case, len(metrics))
    short = "D" if name == "discriminator" else "Ds"
    check_gradients(getattr(networks, name), case, short, discriminator_name)


@pytest.mark.parametrize(
    ("case", "context"), [("Gmain", PLAIN), ("Gmain_swap_blur", SWAPPED_AND_BLURRED)]
)
def test_generator_step_matches_the_release(networks, latents, case, context):
    networks.discriminator.requires_grad_(False)
    networks.semantic_discriminator.requires_grad_(False)
    metrics = steps.generator_step(networks, latents, RELEASED, context)
    check_metrics(metrics, case, 9)
    check_gradients(networks.generator, case, "G", generator_name)


def test_unweighted_released_terms_match(networks, latents):
    generator, face = networks.generator, golden_face()
    ws = generator.map(latents.z, latents.camera)
    head = generator.make_field(ws)
    output = generator.render(
        head, ws, latents.camera, neural_rendering_resolution=16, with_samples=True
    )
    samples = output.samples
    class_density = head.density(samples.class_sdf)
    class_images, _ = march_classes(samples, class_density, generator.config.rendering)
    values = {
        "G_sigma_consist_loss": formulas.density_consistency_loss(
            samples.density.flatten(1, 2), class_density.flatten(1, 2)
        ),
        "G_rgb_semantic_seg_loss_raw": formulas.class_color_consistency_loss(
            class_images, output.image_raw, output.segmentation_raw
        ),
        "G_rgb_consist_loss": formulas.color_consistency_loss(class_images, output.image_raw),
    }
    for name, value in values.items():
        assert_golden(value, face[f"train.Gmain.Loss/{name}/loss"])


def test_density_step_matches_the_release(networks, latents):
    points = golden_face()["train.Greg.coords"]
    # The release's weights are for its beta of 0.1, and the recorded network has another.
    weight = RELEASED.density_smoothness * 0.1 / networks.generator.decoder.beta.item()
    loss = replace(RELEASED, density_smoothness=weight)
    metrics = steps.density_step(networks, latents, loss, PLAIN, points=points)
    assert_golden(metrics["Loss/G_density_smoothness/weighted"], golden_face()["train.Greg.tv"])
    check_gradients(networks.generator, "Greg", "G", generator_name)


def test_sphere_initialization_step_matches_the_release(networks, latents):
    metrics = steps.sphere_initialization_step(networks, latents, RELEASED, PLAIN)
    check_metrics(metrics, "init", 2)
    check_gradients(networks.generator, "init", "G", generator_name)


@pytest.mark.parametrize(
    ("case", "name", "context"),
    [
        ("Dmain", "discriminator", PLAIN),
        ("Dmain_swap_blur", "discriminator", SWAPPED_AND_BLURRED),
        ("Dsmain", "semantic_discriminator", PLAIN),
    ],
)
def test_discriminator_step_matches_the_release(networks, latents, real, case, name, context):
    metrics = getattr(steps, f"{name}_step")(networks, latents, real, RELEASED, context)
    check_discriminator(networks, name, case, metrics)
    assert_golden(networks.generator.mapping.w_avg, golden_face()[f"train.{case}.w_avg_after"])


@pytest.mark.parametrize(
    ("case", "name", "step"),
    [
        ("Dreg", "discriminator", steps.r1_step),
        ("Dsreg", "semantic_discriminator", steps.semantic_r1_step),
    ],
)
def test_r1_step_matches_the_release(networks, real, case, name, step):
    check_discriminator(networks, name, case, step(networks, real, RELEASED, PLAIN))
