"""Training that starts from a generator of other labels."""

import dataclasses

import torch

from mate3d.cameras import make_camera
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ
from tests.eg3d import make_generator
from tests.training.started_networks import (
    MODEL,
    head_of,
    make_networks,
    make_source,
    random_points,
)
from training.start.init_from import InitSource, initialize_networks
from training.step_inputs import Networks


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
    source = InitSource(
        "faces",
        people.generator.config,
        people.generator.state_dict(),
        people.discriminator.state_dict(),
        people.semantic_discriminator.state_dict(),
    )
    return make_networks(), source


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
