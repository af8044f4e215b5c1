"""The full-size published network, weights made from their names (tests/data/README.md); slow."""

import json
import zlib

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mate3d.generator import Generator, GeneratorConfig
from mate3d.network.discriminator import Discriminator, DiscriminatorConfig
from mate3d.published.names import discriminator_name, generator_name
from mate3d.rendering.renderer import RenderingConfig
from tests.golden import DATA, assert_golden

pytestmark = pytest.mark.slow
TOLERANCE = 2e-4


def make_tensor(salt: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the tensor that tests/data/README.md derives from a published name."""
    draw = np.random.RandomState(zlib.crc32((salt + name).encode()))
    t = draw.standard_normal(shape).astype(np.float32)
    if name.endswith("sigmoid_beta"):
        t = np.full(shape, 0.1, dtype=np.float32)
    elif name.endswith("w_avg"):
        t = 0.3 * t
    elif name.endswith("noise_strength"):
        t = 0.1 + 0.02 * t
    elif ".mapping." in "." + name and ".fc" in "." + name:
        t = (100 if name.endswith("weight") else 20) * t
    elif name.endswith("affine.bias"):
        t = 1 + 0.1 * t
    elif name.startswith("decoder.net_main_shp") and ".2." in name:
        is_weight = name.endswith("weight")
        t = 0.8 * (t - t.mean(axis=-1, keepdims=True)) if is_weight else 0.05 + 0.02 * t
    elif name.endswith("bias"):
        t = 0.1 * t
    return torch.from_numpy(np.asarray(t, dtype=np.float32))


def fill(module: torch.nn.Module, salt: str, names: dict[str, str]) -> None:
    """Load made tensors; `names` maps ours to published names, filters keep their own."""
    state = module.state_dict()
    for ours, published in names.items():
        if not ours.endswith("resample_filter"):
            state[ours] = make_tensor(salt, published, tuple(state[ours].shape))
    module.load_state_dict(state)
    module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def golden():
    with safe_open(DATA / "golden_fullsize_face.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


@pytest.fixture(scope="module")
def generator(golden):
    config = GeneratorConfig(
        plane_layout="eg3d_legacy",
        rendering=RenderingConfig(
            density_activation="softplus_shifted",
            importance_bins="legacy_midpoints",
            background_class=None,
        ),
    )
    generator = Generator(config)
    published = json.loads(golden[1]["state_names"])
    names = {generator_name(name): name for name in published}
    assert set(names) == set(generator.state_dict())
    fill(generator, golden[1]["salt"], names)
    return generator


def test_made_weights_have_the_recorded_checksums(golden, generator):
    tensors, metadata = golden
    state = generator.state_dict()
    for name, sums in zip(
        json.loads(metadata["state_names"]), tensors["state_checksum"], strict=True
    ):
        value = state[generator_name(name)].double()
        actual = torch.stack([value.sum(), value.abs().sum()])
        torch.testing.assert_close(actual, sums.double(), rtol=1e-6, atol=1e-3, msg=name)


def test_mapping_planes_and_points_match(golden, generator):
    tensors, _ = golden
    ws = generator.map(tensors["in.z"], tensors["in.c_cond"])
    assert_golden(ws[:, 0].view_as(tensors["ws0"]), tensors["ws0"], TOLERANCE)
    truncated = generator.map(
        tensors["in.z"], tensors["in.c_cond"], truncation_psi=0.7, truncation_cutoff=10
    )
    rows = truncated[:, [0, 9, 10, 13]]
    assert_golden(rows.reshape(tensors["ws_trunc_rows"].shape), tensors["ws_trunc_rows"], TOLERANCE)
    field = generator.make_field(ws)
    for planes, name in ((field.texture_planes, "tex"), (field.shape_planes, "shp")):
        values = planes.flatten()[tensors["planes.index"]]
        assert_golden(values, tensors[f"planes.{name}"].flatten(), TOLERANCE)
    samples = field.sample(tensors["in.xyz"])
    assert_golden(samples.features, tensors["pts.rgb"], TOLERANCE)
    assert_golden(samples.sdf, tensors["pts.sdf"], TOLERANCE)
    assert_golden(samples.class_sdf, tensors["pts.aux_sdf"], TOLERANCE)


def check_render(tensors, view, resolution):
    prefix, step = f"r{resolution}", 2 if resolution == 64 else 4
    thin = (slice(None), slice(None), slice(None, None, step), slice(None, None, step))
    thinner = (slice(None), slice(None), slice(None, None, 32), slice(None, None, 32))
    assert_golden(view.image_raw[thin], tensors[f"{prefix}.image_raw"], TOLERANCE)
    assert_golden(view.depth[thin], tensors[f"{prefix}.image_depth"], TOLERANCE)
    assert_golden(view.segmentation_raw[thin], tensors[f"{prefix}.semantic_raw"], TOLERANCE)
    assert_golden(view.image[thinner], tensors[f"{prefix}.image"], TOLERANCE)
    assert_golden(view.segmentation[thinner], tensors[f"{prefix}.semantic"], TOLERANCE)
    counts = torch.bincount(view.segmentation.argmax(dim=1).flatten(), minlength=19)
    difference = (counts - tensors[f"{prefix}.label_counts"].flatten()).abs().sum()
    assert difference <= 0.001 * counts.sum()


@torch.no_grad()
def test_fast_path_keeps_50_db_to_the_published_images(golden, generator):
    tensors, _ = golden
    ws = generator.map(tensors["in.z"], tensors["in.c_cond"])
    view = generator.synthesize(ws, tensors["in.c"], neural_rendering_resolution=64, exact=False)
    for value, name, step in (
        (view.image, "image", 32),
        (view.segmentation, "semantic", 32),
        (view.image_raw, "image_raw", 2),
        (view.segmentation_raw, "semantic_raw", 2),
    ):
        expected = tensors[f"r64.{name}"]
        error = (value[:, :, ::step, ::step] - expected).square().mean()
        assert 10 * torch.log10(4 / error) > 50, name


@torch.no_grad()
def test_renders_and_discriminators_match(golden, generator):
    tensors, metadata = golden
    ws = generator.map(tensors["in.z"], tensors["in.c_cond"])
    field = generator.make_field(ws)
    for resolution in (64, 128):
        view = generator.render(field, ws, tensors["in.c"], neural_rendering_resolution=resolution)
        check_render(tensors, view, resolution)
    for key, channels in (("D", 3), ("Ds", 22)):
        discriminator = Discriminator(DiscriminatorConfig(image_channels=channels))
        names = published_discriminator_names(discriminator)
        fill(discriminator, f"{metadata['salt']}{key}.", names)
        images, raws = [view.image], [view.image_raw]
        if key == "Ds":
            images.append(view.segmentation)
            raws.append(view.segmentation_raw)
        logits = discriminator(torch.cat(images, dim=1), torch.cat(raws, dim=1), tensors["in.c"])
        assert_golden(logits, tensors[f"disc.{key}"], TOLERANCE)


def published_discriminator_names(discriminator: Discriminator) -> dict[str, str]:
    """Map our tensor names to published ones by inverting the renaming of candidates."""
    candidates = []
    for ours in discriminator.state_dict():
        published = ours.removeprefix("blocks.").replace("from_image", "fromrgb")
        published = published.replace("mapping.layers.", "mapping.fc")
        candidates.append(published.replace("head.", "b4."))
    names = {discriminator_name(name): name for name in candidates}
    assert set(names) == set(discriminator.state_dict())
    return names
