"""The supervised warm start: its losses, and what it learns for cats and for people."""

from dataclasses import fields, replace

import pytest
import torch

from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ
from mate3d.procedural.cats.cat import CatParameters
from mate3d.procedural.people.field import PersonField
from mate3d.rendering.field import FieldSamples
from training.settings import WarmStartSettings
from training.start.warm_start import AttributeHead, WarmStart, portraits_of
from training.start.warm_start_losses import (
    class_weights,
    label_loss,
    sample_training_points,
    small_classes,
)

CONFIG = WarmStartSettings(
    num_field_steps=2,
    num_image_steps=1,
    batch_size=2,
    num_points=64,
    num_rays=8,
    image_batch_size=1,
    pool_size=1,
    attribute_batch_size=4,
)


def make_generator(tiny_generator: Generator, **changes) -> Generator:
    torch.manual_seed(0)
    return Generator(replace(tiny_generator.config, **{"z_dim": 64, **changes}))


def make_samples(class_sdf: list[list[float]]) -> FieldSamples:
    distances = torch.tensor([class_sdf])
    sdf = distances.amin(dim=-1, keepdim=True)
    return FieldSamples(torch.zeros(1, len(class_sdf), 3), sdf, distances)


def test_label_loss_is_small_where_the_nearest_class_is_right():
    truth = make_samples([[0.5, 0.0, 0.04], [0.5, 0.04, 0.0]])
    swapped = make_samples([[0.5, 0.04, 0.0], [0.5, 0.0, 0.04]])
    assert label_loss(truth, truth) < 1e-3
    assert label_loss(swapped, truth) > 5
    # Points far from the surface do not count.
    truth = make_samples([[0.5, 0.0, 0.04], [0.5, 0.3, 0.2]])
    wrong_far_away = make_samples([[0.5, 0.0, 0.04], [0.5, 0.2, 0.3]])
    torch.testing.assert_close(label_loss(wrong_far_away, truth), label_loss(truth, truth))
    assert label_loss(truth, make_samples([[0.5, 0.3, 0.2]] * 2)) == 0


def test_rare_classes_weigh_more():
    weights = class_weights(torch.tensor([0.9, 0.09, 0.01, 0.0]))
    assert (weights.diff() > 0).all() and torch.isfinite(weights).all()


def test_small_parts_are_neither_skin_nor_hair_nor_clothes():
    assert small_classes(CATMASK_HQ) == [2, 3, 4, 5]
    names = [CELEBAMASK_HQ.class_names[index] for index in small_classes(CELEBAMASK_HQ)]
    assert {"nose", "l_eye", "r_ear", "u_lip", "eye_g"} <= set(names)
    assert not {"background", "skin", "hair", "hat", "neck", "cloth"} & set(names)


def test_points_gather_at_the_surface_of_people(tiny_generator):
    generator = make_generator(tiny_generator, label_set="celebamask_hq")
    z = torch.randn(2, 64)
    people, ws = portraits_of(generator, z), generator.map(z, torch.zeros(2, 25))
    assert isinstance(people, PersonField)
    points = sample_training_points(people, small_classes(CELEBAMASK_HQ), ws, 512, 0.5)
    distance = people.sdf(points).abs()
    assert distance[:, :128].median() > 2 * distance[:, 128:].median()


def test_length_of_a_latent_does_not_matter(tiny_generator):
    generator, z = make_generator(tiny_generator, label_set="celebamask_hq"), torch.randn(2, 64)
    points = torch.rand(2, 32, 3) - 0.5
    expected = portraits_of(generator, z).class_sdf(points)
    torch.testing.assert_close(portraits_of(generator, 3 * z).class_sdf(points), expected)


def test_attributes_that_no_latent_changes_are_left_out(tiny_generator):
    head = AttributeHead(make_generator(tiny_generator))
    declared = (field.metadata for field in fields(CatParameters))
    # Basic cats vary in what has no neutral value.
    assert len(head.mean) == sum(item["size"] for item in declared if item["neutral"] is None)
    assert (head.deviation > 0).all()


@pytest.mark.parametrize("label_set", ["catmask_hq", "celebamask_hq"])
def test_every_weight_learns_for_each_kind_of_portraits(tiny_generator, label_set):
    generator = make_generator(tiny_generator, label_set=label_set, camera_scale=1.0)
    before = {name: weight.clone() for name, weight in generator.named_parameters()}
    warm_start = WarmStart(generator, CONFIG)
    losses = [warm_start.step() for _ in range(warm_start.num_steps)]
    assert {"sdf", "class_sdf", "point_label", "ray_color", "attributes"} <= set(losses[0])
    assert {"image", "segmentation"} <= set(losses[-1])
    assert all(torch.isfinite(torch.tensor(list(values.values()))).all() for values in losses)
    still = [n for n, weight in generator.named_parameters() if torch.equal(weight, before[n])]
    # Super-resolutions have no noise.
    assert not [name for name in still if "noise_strength" not in name]


def test_logits_of_classes_are_not_compared_with_distances(tiny_generator):
    rendering = replace(tiny_generator.config.rendering, semantic_sharpness=1.0)
    generator = make_generator(tiny_generator, with_local_sdfs=False, rendering=rendering)
    losses = WarmStart(generator, CONFIG).step()
    assert "class_sdf" not in losses and {"sdf", "point_label"} <= set(losses)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_set": "face_8"}, "no procedural portraits have labels face_8; use catmask_hq or"),
        ({"label_set": "celebamask_hq", "z_dim": 32}, "latents of 32 numbers: these portraits"),
    ],
)
def test_models_without_portraits_of_their_own_are_refused(tiny_generator, changes, message):
    with pytest.raises(UserError, match=f"train.warm_start=procedural: {message}"):
        WarmStart(make_generator(tiny_generator, **changes), CONFIG)
