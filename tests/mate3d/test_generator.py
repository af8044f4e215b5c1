"""Shapes, determinism and switches of the generator; checkpoints give the same pixels."""

import dataclasses

import pytest
import torch

from mate3d.checkpoint import load_generator, save_generator
from mate3d.errors import UserError
from mate3d.generator import Generator


@pytest.fixture
def latent():
    return torch.randn(1, 12, generator=torch.Generator().manual_seed(0))


def test_every_output_has_its_documented_shape(tiny_generator, latent, camera):
    ws = tiny_generator.map(latent, camera)
    view = tiny_generator.synthesize(ws, camera, with_normals=True, with_samples=True)
    config = tiny_generator.config
    raw, full = config.neural_rendering_resolution, config.resolution
    num_samples = config.rendering.num_coarse_samples + config.rendering.num_fine_samples
    assert view.image.shape == (1, 3, full, full)
    assert view.image_raw.shape == view.normals.shape == (1, 3, raw, raw)
    assert view.segmentation.shape == (1, 6, full, full)
    assert view.segmentation_raw.shape == (1, 6, raw, raw)
    assert view.depth.shape == view.opacity.shape == (1, 1, raw, raw)
    assert view.samples.class_sdf.shape == (1, raw * raw, num_samples, 6)
    assert (view.normals.norm(dim=1) <= 1 + 1e-5).all()


def test_planes_made_once_serve_every_view(tiny_generator, latent, camera):
    ws = tiny_generator.map(latent, camera)
    planes = tiny_generator.make_planes(ws)
    again = tiny_generator.render(tiny_generator.make_field(ws, planes), ws, camera)
    assert torch.equal(again.image, tiny_generator.synthesize(ws, camera).image)


def test_camera_scale_zero_switches_pose_conditioning_off(tiny_generator, latent, camera):
    assert tiny_generator.config.camera_scale == 0
    assert torch.equal(
        tiny_generator.map(latent, camera), tiny_generator.map(latent, torch.zeros_like(camera))
    )


def test_truncation_zero_gives_the_average(tiny_generator, latent, camera):
    tiny_generator.mapping.update_average(tiny_generator.map(latent, camera), decay=0.5)
    ws = tiny_generator.map(latent, camera, truncation_psi=0)
    torch.testing.assert_close(ws[0, 0], tiny_generator.mapping.w_avg)


def test_segmentation_loss_moves_density_only_when_asked(tiny_generator, latent, camera):
    tiny_generator.requires_grad_(True)
    ws = tiny_generator.map(latent, camera).detach()
    gradients = []
    for detach in (True, False):
        tiny_generator.zero_grad()
        head = tiny_generator.make_field(ws)
        view = tiny_generator.render(head, ws, camera, detach_semantic_density=detach)
        view.segmentation_raw.square().sum().backward()
        gradients.append(tiny_generator.decoder.sdf_head[2].weight.grad)
    assert gradients[0] is None or gradients[0].abs().max() == 0
    assert gradients[1].abs().max() > 0


def replace_in(name, old, new):
    def damage(folder):
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new, 1))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (replace_in("config.yaml", b"hidden_width", b"colour"), "colour"),
        (replace_in("config.yaml", b"hidden_width: 8", b"hidden_width: 9"), "wrong shape"),
        (replace_in("generator.safetensors", b"{", b""), "cannot be read"),
        (lambda folder: (folder / "config.yaml").unlink(), "no checkpoint"),
        (lambda folder: (folder / "generator.safetensors").unlink(), "weights not found"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(tiny_generator, tmp_path, damage, message):
    save_generator(tmp_path / "model", tiny_generator)
    damage(tmp_path / "model")
    with pytest.raises(UserError, match=message) as caught:
        load_generator(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_unsuitable_superresolution_is_refused(tiny_generator):
    config = dataclasses.replace(tiny_generator.config, resolution=24)
    with pytest.raises(ValueError, match="8 to 24"):
        Generator(config)
