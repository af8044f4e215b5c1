"""Gradients through the prior's image encoder, in half precision and with little memory."""

import pytest
import torch
from diffusers import AutoencoderTiny
from torch.nn import functional as F

from editing.guidance.controlnet import ControlNetGuidance
from editing.guidance.loading import load_controlnet_guidance
from editing.options import GuidanceOptions
from tests.editing.conftest import make_tiny_pipeline
from tests.editing.objective_views import picture


def gradient(guidance, weight, images):
    """Return the gradient of `weight` times a mean over latents, as an objective has it."""
    images = images.clone().requires_grad_(True)
    latents = guidance.encode_image(images)
    wanted = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    loss = 0.5 * F.mse_loss(latents, (latents - wanted).detach())
    (found,) = torch.autograd.grad(weight * loss, images)
    return found


def cosine(first, second):
    return F.cosine_similarity(first.double().flatten(), second.double().flatten(), 0, eps=1e-30)


@pytest.fixture(scope="module")
def demo():
    return {
        name: load_controlnet_guidance(GuidanceOptions(precision=name)) for name in ("fp32", "fp16")
    }


@pytest.mark.parametrize("weight", [1e10, 1.0, 1e-2, 1e-4, 1e-6])
def test_gradients_in_half_precision_do_not_depend_on_the_weight(demo, weight):
    images = torch.cat([picture(0, 64), picture(1, 64)])
    expected, found = (gradient(demo[name], weight, images) for name in ("fp32", "fp16"))
    assert cosine(found, expected) > 0.999
    assert (found.norm() / expected.norm()).item() == pytest.approx(1, abs=0.01)


def test_small_shares_of_a_batch_do_not_vanish_beside_large_ones(demo):
    images = torch.cat([picture(0, 64), picture(1, 64)]).requires_grad_(True)

    def found(guidance):
        image, normals = guidance.encode_image(images).split(1)
        return torch.autograd.grad((image + 1e-7 * normals).mean(), images)[0]

    for half, full in zip(found(demo["fp16"]), found(demo["fp32"]), strict=True):
        assert cosine(half, full) > 0.999


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_in_full_precision_are_exactly_the_encoders(checkpointing):
    guidance = ControlNetGuidance(make_tiny_pipeline(), checkpointing=checkpointing)
    images = torch.cat([picture(0, 32), picture(1, 32)]).requires_grad_(True)
    vae, wanted = make_tiny_pipeline().vae, torch.randn(2, 4, 8, 8) * 3e-5
    parts = [vae.encode(part).latent_dist.mode() for part in images.split(1)]
    (expected,) = torch.autograd.grad(torch.cat(parts) * vae.config.scaling_factor, images, wanted)
    latents = guidance.encode_image(images)
    (found,) = torch.autograd.grad(latents, images, wanted, retain_graph=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-10)
    # A factor of two in the weight is one in the gradient, bit for bit.
    (doubled,) = torch.autograd.grad(latents, images, 2.0**-40 * wanted)
    assert torch.equal(doubled * 2.0**40, found)


def test_only_the_path_through_the_encoder_is_scaled_and_zero_and_nan_pass(demo):
    image = picture(0, 64).requires_grad_(True)
    latents = demo["fp32"].encode_image(image)
    through, whole = (
        torch.autograd.grad(loss, image, retain_graph=True)[0]
        for loss in (latents.sum() * 1e-3, latents.sum() * 1e-3 + image.sum())
    )
    torch.testing.assert_close(whole, through + 1)
    assert not torch.autograd.grad(0 * latents.sum(), image, retain_graph=True)[0].any()
    assert torch.autograd.grad(torch.nan * latents.sum(), image)[0].isnan().any()


def test_checkpointing_keeps_little_for_the_gradient():
    kept = {}
    for checkpointing in (False, True):
        guidance, sizes = ControlNetGuidance(make_tiny_pipeline(), checkpointing=checkpointing), {}

        def pack(tensor, sizes=sizes):
            sizes[tensor.data_ptr()] = tensor.numel() * (not tensor.is_leaf)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            latents = guidance.encode_image(torch.cat([picture(0, 32).requires_grad_(True)] * 2))
        kept[checkpointing] = sum(sizes.values())
        latents.sum().backward()
    assert kept[True] < 0.4 * kept[False]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_tiny_autoencoder_serves_as_encoder_and_decoder(checkpointing):
    torch.manual_seed(0)
    pipeline = make_tiny_pipeline()
    widths, blocks = (8, 8, 8), (1, 1, 1)
    pipeline.vae = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    )
    guidance = ControlNetGuidance(pipeline, checkpointing=checkpointing)
    assert guidance.image_size == 32
    image = picture(0, 32).requires_grad_(True)
    latents = guidance.encode_image(image)
    # Its networks see images in 0..1.
    torch.testing.assert_close(latents, pipeline.vae.encoder.layers((image + 1) / 2))
    assert latents.shape == (1, 4, 8, 8)
    (found,) = torch.autograd.grad(latents.sum(), image)
    assert found.any()
    decoded = guidance.decode_latents(latents)
    expected = pipeline.vae.decode(latents).sample.clamp(-1, 1)
    torch.testing.assert_close(decoded, expected.detach())
