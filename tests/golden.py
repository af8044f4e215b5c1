"""The published network at reduced size with its recorded numbers (tests/data/golden_*)."""

from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mate3d.generator import Generator, GeneratorConfig
from mate3d.network.discriminator import Discriminator, DiscriminatorConfig
from mate3d.published.names import convert_discriminator_state, generator_name
from mate3d.rendering.renderer import RenderingConfig

DATA = Path(__file__).parent / "data"
# A snapshot in the published pickle structure, and what it holds and renders.
SNAPSHOT = DATA / "official_format_face_small.pkl"
EXPECTED = DATA / "official_format_face_small_expected.safetensors"
FACE_RENDERING = RenderingConfig(
    num_coarse_samples=12,
    num_fine_samples=12,
    density_activation="softplus_shifted",
    importance_bins="legacy_midpoints",
    background_class=None,
)
FACE_CONFIG = GeneratorConfig(
    z_dim=40,
    w_dim=48,
    plane_resolution=32,
    plane_layout="eg3d_legacy",
    channel_base=1024,
    channel_max=48,
    neural_rendering_resolution=16,
    sr_input_resolution=16,
    resolution=64,
    sr_channels=(24, 16),
    rendering=FACE_RENDERING,
)


@lru_cache(maxsize=1)
def golden_face() -> dict[str, Tensor]:
    """Return every tensor of the reduced-size golden file."""
    return load_file(DATA / "golden_face.safetensors")


def sub_state(prefix: str) -> dict[str, Tensor]:
    """Return the tensors below a prefix, without it."""
    face = golden_face()
    return {name[len(prefix) :]: value for name, value in face.items() if name.startswith(prefix)}


def convert_generator_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published generator's tensors."""
    return {name: tensor for key, tensor in state.items() if (name := generator_name(key))}


def make_golden_generator() -> Generator:
    """Build the reduced-size face generator and load its published state strictly."""
    generator = Generator(FACE_CONFIG)
    generator.load_state_dict(convert_generator_state(sub_state("state.G.")))
    return generator.eval()


def make_golden_discriminator(network: str) -> Discriminator:
    """Build "D" or "Ds" and load its published state strictly."""
    config = DiscriminatorConfig(
        image_channels=3 if network == "D" else 22,
        resolution=64,
        channel_base=1024,
        channel_max=48,
    )
    discriminator = Discriminator(config)
    discriminator.load_state_dict(convert_discriminator_state(sub_state(f"state.{network}.")))
    return discriminator.eval()


def assert_golden(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Compare under a tolerance relative to the expected tensor's largest magnitude."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    error = (actual.detach() - expected).abs().max() / expected.abs().max()
    assert torch.isfinite(error) and error <= tolerance, f"relative error {error:.2e}"
