"""A tiny random generator, a tiny random prior on disk, and a fake noise predictor."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline
from torch import Tensor

from editing.edited_generator import EditedGenerator
from editing.guidance.base import PromptEmbeds
from editing.head_scale import HeadScale
from editing.options import EditOptions
from editing.regions import EditRegion, RegionOptions
from mate3d.cameras import make_camera
from mate3d.checkpoint import save_generator
from mate3d.generator import Generator, GeneratorConfig
from mate3d.rendering.renderer import RenderingConfig
from training.prior.models import make_pipeline, make_tiny_networks
from training.prior.options import PriorArchitecture

TINY_CONFIG = GeneratorConfig(
    label_set="catmask_hq",
    z_dim=16,
    w_dim=16,
    mapping_layers=1,
    plane_resolution=16,
    plane_channels=8,
    channel_base=128,
    channel_max=16,
    hidden_width=8,
    num_features=8,
    box_size=0.7,
    beta=0.02,
    background="learned",
    neural_rendering_resolution=16,
    sr_input_resolution=16,
    resolution=32,
    sr_channels=(8, 8),
    rendering=RenderingConfig(near=2.3, far=3.1, num_coarse_samples=8, num_fine_samples=8),
)

# The paper's method, as in configs/edit/cdgt.yaml.
PAPER = EditOptions(
    objective="sds",
    prior_moves_shape=True,
    learnable=("ws", "backbone.blocks.*.to_image", "texture", "shape"),
    region=RegionOptions(shape_scope="classes"),
)
# Of the tiny generator's heads, as far as the tests care.
SCALE = HeadScale(size=0.4, thickness=0.05, slope=1.0)


@torch.no_grad()
def make_tiny_generator() -> Generator:
    """Build a generator of random weights that shows every class somewhere."""
    torch.manual_seed(0)
    generator = Generator(TINY_CONFIG).eval().requires_grad_(False)
    ws = generator.map(torch.randn(1, 16), make_camera(0.0))
    samples = generator.make_field(ws).sample(torch.rand(1, 2000, 3) * 0.6 - 0.3)
    distances = torch.cat([samples.sdf, samples.class_sdf], dim=-1)[0]
    decoder = generator.decoder
    for head, values in zip([decoder.sdf_head, *decoder.class_heads], distances.T, strict=True):
        scale = 0.1 / values.std()
        head[2].weight.mul_(scale)
        head[2].bias.copy_(-scale * values.mean())
    return generator


@pytest.fixture
def tiny_generator() -> Generator:
    return make_tiny_generator()


@pytest.fixture
def tiny_ws(tiny_generator: Generator) -> Tensor:  # [1, L, w_dim]
    z = torch.randn(1, 16, generator=torch.Generator().manual_seed(1))
    return tiny_generator.map(z, make_camera(0.0))


def make_edited(generator: Generator, ws: Tensor, region: EditRegion) -> EditedGenerator:
    """Return a copy whose styles are no longer those of its source."""
    edited = EditedGenerator(generator, ws, region, learnable=PAPER.learnable)
    with torch.no_grad():
        noise = torch.randn(edited.ws.shape, generator=torch.Generator().manual_seed(2))
        edited.ws.add_(0.3 * noise)
    return edited


@pytest.fixture(scope="session")
def generator_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny generator."""
    folder = tmp_path_factory.mktemp("generator") / "checkpoint"
    save_generator(folder, make_tiny_generator())
    return folder


def make_tiny_pipeline() -> StableDiffusionControlNetPipeline:
    """Build a 32 px Stable Diffusion with ControlNet of random weights."""
    torch.manual_seed(0)
    architecture = PriorArchitecture(
        vae_channels=(4, 4, 8),
        vocabulary_size=1,
        max_tokens=8,
        text_width=16,
        text_layers=1,
        unet_channels=(8, 16),
        attention_levels=(True, False),
        attention_heads=2,
        norm_groups=2,
        control_channels=(4, 8, 8),
    )
    networks = make_tiny_networks(architecture, ["a cat"], resolution=32)
    networks.vae.register_to_config(scaling_factor=0.18215)
    for parameter in networks.controlnet.parameters():
        # ControlNets start at zero, which would hide a condition that is not used.
        torch.nn.init.normal_(parameter, std=0.1)
    return make_pipeline(networks)


@pytest.fixture(scope="session")
def prior_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny prior in diffusers' directory format."""
    folder = tmp_path_factory.mktemp("prior")
    make_tiny_pipeline().save_pretrained(folder)
    return folder


class FakeGuidance:
    """Four-channel latents by averaging, and a fixed answer to every question."""

    image_size = 16
    palette = None

    def __init__(self):
        self.alphas_cumprod = torch.linspace(0.999, 0.01, 100)
        self.noise_pred = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
        self.controls: list[Tensor | None] = []

    def encode_prompt(self, prompt, negative_prompt="", label_prompts=None) -> PromptEmbeds:
        return PromptEmbeds(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))

    def encode_image(self, image: Tensor) -> Tensor:
        small = torch.nn.functional.interpolate(image, size=(8, 8), mode="area")
        return torch.cat([small, small.mean(dim=1, keepdim=True)], dim=1)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(latents[:, :3], size=self.image_size).clamp(-1, 1)

    def predict_noise(self, noisy_latents, timestep, prompt_embeds, control_image, **scales):
        self.controls.append(control_image)
        return self.noise_pred.expand_as(noisy_latents)


@pytest.fixture
def fake_guidance() -> FakeGuidance:
    return FakeGuidance()
