"""What the steps evaluate, and that random subsets of samples estimate the same losses."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from mate3d.cameras import make_camera
from mate3d.labels import one_hot_mask
from torch_utils.batch_random import BatchRandom
from training import steps
from training.losses.terms import LossSettings
from training.optimization.schedules import ScheduleValues
from training.step_inputs import Latents, Networks, RealBatch, StepContext

NOTHING = LossSettings(0, 0, 0, 0, 0)
CONTEXT = StepContext(
    ScheduleValues(resolution=8, blur_sigma=0.0, pose_swap_probability=0.0),
    random=BatchRandom((0,), range(2)),
    noise_mode="const",
    depth_mode="fixed",
)


@pytest.fixture
def networks(make_trainer, tmp_path) -> Networks:
    """Of six classes; distances are about 1 and 2, so that every term has something to charge."""
    networks = make_trainer(tmp_path)[1].networks
    decoder = networks.generator.decoder
    torch.nn.init.constant_(decoder.sdf_head[2].bias, 1.0)
    for head in decoder.class_heads:
        torch.nn.init.constant_(head[2].bias, 2.0)
    return networks


@pytest.fixture
def latents() -> Latents:
    generator = torch.Generator().manual_seed(0)
    camera = torch.cat([make_camera(yaw=0.3), make_camera(yaw=-0.1, pitch=0.1)])
    return Latents(torch.randn(2, 24, generator=generator), camera)


@pytest.fixture
def real(latents) -> RealBatch:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1
    ids = torch.randint(6, (2, 16, 16), generator=generator)
    return RealBatch(image, one_hot_mask(ids, 6), latents.camera)


@pytest.fixture
def calls(networks, monkeypatch) -> Counter:
    """How often the networks run, and at how many points the class heads do."""
    counts = Counter()

    def watch(owner, method, name):
        original = getattr(owner, method)

        def counted(*args, **kwargs):
            counts[name] += args[0].shape[:-1].numel() if name == "class_points" else 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, method, counted)

    generator = networks.generator
    # Both ways through a super-resolution start with it.
    watch(generator.superresolution, "prepare", "image")
    watch(generator.segmentation_superresolution, "prepare", "segmentation")
    watch(networks.discriminator, "forward", "discriminator")
    watch(networks.semantic_discriminator, "forward", "semantic_discriminator")
    watch(generator.decoder, "distances", "class_points")
    watch(generator.decoder, "class_distances", "class_points")
    watch(steps, "march_classes", "marches")
    return counts


def train_generator(networks: Networks, latents: Latents, loss: LossSettings):
    networks.generator.requires_grad_(True).zero_grad(set_to_none=True)
    networks.discriminator.requires_grad_(False)
    networks.semantic_discriminator.requires_grad_(False)
    return steps.generator_step(networks, latents, loss, CONTEXT)


def test_fakes_without_segmentation_on_several_threads(networks, latents):
    torch.set_num_threads(2)
    try:
        output = steps.generate_fakes(networks.generator, latents, CONTEXT, with_segmentation=False)
    finally:
        torch.set_num_threads(1)
    assert output.image.isfinite().all() and output.segmentation is None


def test_discriminator_steps_record_nothing_of_the_generator(networks, latents, real, calls):
    for network in vars(networks).values():
        network.requires_grad_(True)
    steps.discriminator_step(networks, latents, real, NOTHING, CONTEXT)
    assert calls == {"image": 1, "discriminator": 2}
    steps.semantic_discriminator_step(networks, latents, real, NOTHING, CONTEXT)
    assert all(parameter.grad is None for parameter in networks.generator.parameters())
    weight = networks.semantic_discriminator.head.out.weight
    assert weight.grad.abs().sum() > 0


NUM_SAMPLES = 2 * 8 * 8 * 12
IMAGE = {"image": 1, "discriminator": 1}
MASK = {"segmentation": 1, "semantic_discriminator": 1, "class_points": NUM_SAMPLES}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"adversarial": 1.0}, IMAGE),
        ({"semantic_adversarial": 0.1}, {"image": 1} | MASK),
        ({"adversarial": 1.0, "sdf_consistency": 0.1}, IMAGE | {"class_points": 2 * 5}),
        # Parts are marched one by one for their own losses only.
        (
            {"class_color_consistency": 0.1, "color_consistency": 0.1},
            {"image": 1, "marches": 1, "class_points": NUM_SAMPLES},
        ),
    ],
)
def test_networks_run_as_far_as_a_loss_needs(networks, latents, calls, weights, expected):
    loss = replace(NOTHING, consistency_points=5, **weights)
    metrics = train_generator(networks, latents, loss)
    assert calls == expected
    logged = {name for name in metrics if name.startswith("Loss/G") and name.endswith("/loss")}
    assert len(logged) == len(weights)


@pytest.mark.parametrize(("beta", "factor"), [(0.1, 1.0), (0.01, 0.01)])
def test_density_consistency_is_weighted_by_the_square_of_beta(networks, latents, beta, factor):
    networks.generator.decoder.beta.fill_(beta)
    metrics = train_generator(networks, latents, replace(NOTHING, density_consistency=3.0))
    raw, weighted = (metrics[f"Loss/G_sigma_consist_loss/{name}"] for name in ("loss", "weighted"))
    torch.testing.assert_close(weighted, 3 * factor * raw)


@pytest.mark.parametrize("with_mask", [True, False], ids=["parts_rendered", "parts_looked_up"])
@pytest.mark.parametrize(
    ("term", "points", "metric"),
    [
        ("eikonal", "eikonal_points", "Loss/G_eikonal/loss"),
        ("sdf_consistency", "consistency_points", "Loss/G_sdf_consist_loss/loss"),
        ("density_consistency", "consistency_points", "Loss/G_sigma_consist_loss/loss"),
    ],
)
def test_mean_over_all_subsets_is_the_loss_on_all_samples(
    networks, latents, monkeypatch, with_mask, term, points, metric
):
    """Subsets of one sample, each as likely as the others: their mean is the expectation."""
    loss = replace(NOTHING, semantic_adversarial=0.1 if with_mask else 0.0, **{term: 1.0})
    field, output = field_and_output(networks, latents, loss)
    tensors = [networks.generator.decoder.class_heads[0][0].weight, field.shape_planes]

    def value_and_gradients(loss, output):
        terms = steps.LossSum()
        steps._add_geometry_terms(terms, field, output, loss, CONTEXT)
        gradients = torch.autograd.grad(
            terms.total, tensors, retain_graph=True, materialize_grads=True
        )
        return [terms.metrics[metric], *gradients]

    num_samples = output.samples.points.flatten(1, 2).shape[1]
    # Some of the samples stand for all of them; a stride that meets rays at all depths.
    chosen = range(0, num_samples, 7)
    samples = output.samples
    kept = {
        name: getattr(samples, name).flatten(1, 2)[:, list(chosen)].unsqueeze(1)
        for name in ("points", "sdf", "class_sdf", "sdf_gradient")
    }
    few = replace(output, samples=replace(samples, **kept))
    expected = value_and_gradients(loss, few)
    found = [0.0, *map(torch.zeros_like, expected[1:])]
    for index in range(len(chosen)):
        one = torch.tensor([index])
        monkeypatch.setattr(steps.torch, "randint", lambda *args, one=one, **kwargs: one)
        values = value_and_gradients(replace(loss, **{points: 1}), few)
        found = [old + value / len(chosen) for old, value in zip(found, values, strict=True)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert expected[0] > 0


def field_and_output(networks, latents, loss):
    generator = networks.generator.requires_grad_(True)
    ws = generator.map(latents.z, latents.camera)
    field = steps.make_field(generator, ws, CONTEXT)
    rendered = field if loss.needs_classes_everywhere else steps.without_classes(field)
    options = {"with_samples": True, "with_sdf_gradient": True}
    return field, steps.render_heads(generator, rendered, ws, latents, loss, CONTEXT, **options)


def test_as_many_points_as_samples_takes_each_once(networks, latents):
    loss = replace(NOTHING, eikonal=1.0)
    exact = train_generator(networks, latents, loss)
    limited = train_generator(networks, latents, replace(loss, eikonal_points=10**6))
    torch.testing.assert_close(limited["Loss/G_eikonal/loss"], exact["Loss/G_eikonal/loss"])
