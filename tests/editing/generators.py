"""Trained generators that differ in scale, for tests that no length or pixel is tuned to one.

All but `soft_cat` are the demo in other units, so they should edit nearly as it does.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from mate3d.checkpoint import load_generator
from mate3d.generator import Generator, GeneratorConfig
from mate3d.network.layers import FullyConnected

# What `sdf_to_density` adds to |beta|, in world units.
_LEAST_WIDTH = 1e-4


@cache
def demo_cat() -> Generator:
    """Return the demo generator."""
    return load_generator("demo_cat")


@cache
def soft_cat() -> Generator:
    """Return the small generator with the release's rendering (tests/data/soft_cat/card.md)."""
    return load_generator(Path(__file__).parents[1] / "data" / "soft_cat")


@cache
def steep_demo(factor: float = 20.0) -> Generator:
    """Return the demo with all distances and the surface's width multiplied by a factor.

    Cameras and box stay, so distances are no longer metric; those of trained generators often are
    not. The density at a point is divided by the factor (100 per unit instead of 2000), so surfaces
    become thicker in world units, and labels keep their sharpness.
    """
    config = demo_cat().config
    sharpness = config.rendering.semantic_sharpness / factor
    config = replace(config, rendering=replace(config.rendering, semantic_sharpness=sharpness))
    return _rescaled(config, factor)


@cache
def demo_in_units(factor: float = 20.0) -> Generator:
    """Return the demo with every length multiplied by a factor: the same pictures and labels.

    Unlike those of `steep_demo`, its distances stay metric: box, cameras and depths grow too.
    """
    config = demo_cat().config
    rig, rendering = config.camera_rig, config.rendering
    config = replace(
        config,
        box_size=config.box_size * factor,
        camera_rig=replace(
            rig, radius=rig.radius * factor, target=tuple(factor * side for side in rig.target)
        ),
        rendering=replace(
            rendering,
            near=rendering.near * factor,
            far=rendering.far * factor,
            semantic_sharpness=rendering.semantic_sharpness / factor,
        ),
    )
    return _rescaled(config, factor)


@cache
def large_demo(factor: int = 2) -> Generator:
    """Return the demo with `factor` times as many pixels along each side, raw and final.

    The super-resolution is convolutional, so its weights serve any size.
    """
    config = demo_cat().config
    sizes = ("neural_rendering_resolution", "sr_input_resolution", "resolution")
    config = replace(config, **{name: getattr(config, name) * factor for name in sizes})
    return _built(config, demo_cat().state_dict())


@torch.no_grad()
def _rescaled(config: GeneratorConfig, factor: float) -> Generator:
    """Return the demo's weights with other distances, in a generator of the given config."""
    width = demo_cat().decoder.beta.abs() + _LEAST_WIDTH
    generator = _built(config, demo_cat().state_dict())
    generator.decoder.beta.copy_(width * factor - _LEAST_WIDTH)
    for layer in _distance_layers(generator):
        layer.weight.mul_(factor)
        layer.bias.mul_(factor)
    beta = float(generator.decoder.beta)
    generator.config = replace(generator.config, beta=beta)
    return generator


def _distance_layers(generator: Generator) -> Iterator[FullyConnected]:
    """Yield the last layer of every MLP that decodes a distance."""
    decoder = generator.decoder
    return (mlp[2] for mlp in [decoder.sdf_head, *decoder.class_heads])


def _built(config: GeneratorConfig, state: dict[str, Tensor]) -> Generator:
    """Return a frozen generator with these weights; noise of another size is left out."""
    generator = Generator(config)
    own = generator.state_dict()
    fitting = {name: value for name, value in state.items() if value.shape == own[name].shape}
    assert all(name.endswith("noise_const") for name in set(own) - set(fitting))
    nn.Module.load_state_dict(generator, own | fitting)
    return generator.eval().requires_grad_(False)
