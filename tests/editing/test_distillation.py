"""Score distillation: its gradient is the formula, and blending shares it between inputs."""

import pytest
import torch

from editing.distillation import (
    DistillationOptions,
    annealed_timestep_range,
    distill,
    sample_timestep,
    timestep_weight,
)

OPTIONS = DistillationOptions(final_max_timestep=0.98)


def random_picture(seed):
    picture = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return picture.requires_grad_(True)


def run(guidance, image, normal_image, options=OPTIONS, seed=0):
    return distill(
        guidance,
        guidance.encode_prompt("a cat"),
        image=image,
        normal_image=normal_image,
        control_image=None,
        options=options,
        progress=0.0,
        generator=torch.Generator().manual_seed(seed),
    )


def test_gradient_of_latents_equals_weighted_noise_error(fake_guidance):
    options = DistillationOptions(blend="image", final_max_timestep=0.98)
    image = random_picture(0)
    result = run(fake_guidance, image, None, options)
    generator = torch.Generator().manual_seed(0)
    alphas = fake_guidance.alphas_cumprod
    timestep = sample_timestep(1, len(alphas), (0.02, 0.98), generator=generator)
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    expected = (1 - alphas[timestep]) * (fake_guidance.noise_pred - noise)
    assert torch.equal(result.timestep, timestep)
    torch.testing.assert_close(result.residual, expected)

    (gradient,) = torch.autograd.grad(result.loss, image)
    latents = fake_guidance.encode_image(image)
    (through_encoder,) = torch.autograd.grad(latents, image, grad_outputs=expected)
    torch.testing.assert_close(gradient, through_encoder)


def test_blending_shares_the_gradient_between_image_and_normals(fake_guidance):
    image, normal_image = random_picture(0), random_picture(1)
    result = run(fake_guidance, image, normal_image)
    share = result.image_share
    assert 0 < share < 1
    gradients = torch.autograd.grad(result.loss, (image, normal_image))
    for picture, gradient, part in zip(
        (image, normal_image), gradients, (share, 1 - share), strict=True
    ):
        latents = fake_guidance.encode_image(picture)
        (full,) = torch.autograd.grad(latents, picture, grad_outputs=result.residual)
        torch.testing.assert_close(gradient, part * full)


def test_share_is_drawn_from_zero_to_one_at_each_step(fake_guidance):
    pictures = random_picture(0), random_picture(1)
    shares = [run(fake_guidance, *pictures, seed=seed).image_share for seed in range(40)]
    assert min(shares) < 0.2 and max(shares) > 0.8


def test_timesteps_reach_the_ends_of_a_range_whose_largest_falls_linearly():
    draws = sample_timestep(4000, 1000, (0.1, 0.3), generator=torch.Generator().manual_seed(0))
    assert draws.min() == 100 and draws.max() == 299
    options = DistillationOptions(timestep_range=(0.02, 0.9), final_max_timestep=0.5)
    assert annealed_timestep_range(options, 0.0) == (0.02, 0.9)
    assert annealed_timestep_range(options, 0.5) == (0.02, pytest.approx(0.7))
    assert annealed_timestep_range(options, 1.0) == (0.02, pytest.approx(0.5))


def test_weight_is_the_noise_variance_or_one():
    alphas, timestep = torch.tensor([0.9, 0.4]), torch.tensor([1])
    assert timestep_weight(alphas, timestep, "variance").item() == pytest.approx(0.6)
    assert timestep_weight(alphas, timestep, "uniform").item() == 1
