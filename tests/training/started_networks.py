"""Small networks to start training from, and what is looked at in them."""

import dataclasses

import torch

from mate3d.cameras import make_camera
from mate3d.generator import Generator
from mate3d.network.discriminator import Discriminator, DiscriminatorConfig
from mate3d.network.mapping import latents_from_seeds
from tests.eg3d import EG3D, make_generator
from training.start.init_from import InitSource
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
    discriminator = make_networks(seed=6).discriminator
    return InitSource(
        "eg3d.pkl", generator.config, generator.state_dict(), discriminator.state_dict()
    )


def head_of(generator: Generator, seed: int):
    z = latents_from_seeds([seed], generator.config.z_dim)
    return generator.make_field(generator.map(z, make_camera(yaw=0.2)))


def random_points() -> torch.Tensor:
    return torch.rand(1, 4096, 3, generator=torch.Generator().manual_seed(7)) - 0.5
