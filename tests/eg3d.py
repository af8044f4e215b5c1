"""A generator of EG3D's structure and a few thousand weights, and relatives of it."""

import dataclasses

import torch

from mate3d.generator import Generator, GeneratorConfig
from mate3d.rendering.renderer import RenderingConfig

RENDERING = RenderingConfig(
    num_coarse_samples=8,
    num_fine_samples=7,
    density_activation="softplus_shifted",
    importance_bins="legacy_midpoints",
    background_class=None,
)
EG3D = GeneratorConfig(
    label_set="unlabelled",
    geometry="density",
    plane_branches="single",
    plane_layout="eg3d_legacy",
    z_dim=8,
    w_dim=12,
    plane_resolution=8,
    plane_channels=4,
    channel_base=64,
    channel_max=8,
    hidden_width=16,
    num_features=5,
    neural_rendering_resolution=6,
    sr_input_resolution=8,
    resolution=16,
    sr_channels=(6, 4),
    rendering=RENDERING,
)


def make_generator(**changes) -> Generator:
    """Return an EG3D generator with some options changed; densities from -8 to 40 or so."""
    torch.manual_seed(0)
    generator = Generator(dataclasses.replace(EG3D, **changes))
    with torch.no_grad():
        for name, value in generator.named_parameters():
            if name.endswith(("bias", "noise_strength")):
                value.add_(0.3 * torch.randn_like(value))
        if generator.config.geometry == "density":
            # From empty (negative) to far beyond the level of the surface.
            generator.decoder.density_head[2].weight[0] *= 40
            generator.decoder.density_head[2].bias[0] -= 24
    return generator.eval().requires_grad_(False)
